"""Networks in plain torch: they take `operations` from whoever builds them, torch.nn by default."""
