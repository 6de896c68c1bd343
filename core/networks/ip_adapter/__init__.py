"""IP-Adapter (arXiv 2308.06721): tokens of a picture, and the layers through which a UNet looks at them."""
