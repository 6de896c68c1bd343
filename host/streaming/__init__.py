"""StreamingT2V and StreamingSVD in the host, and randomized blending."""
