"""Frames and clips: sizes, joins, files. Images are [B, H, W, 3] from 0 to 1, as in the host."""
