"""What the models make, measured on the host as its nodes run them."""
