"""IP-Adapter (arXiv 2308.06721): tokens of an image, and the cross-attention layers that read them."""
