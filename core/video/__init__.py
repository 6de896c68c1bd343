"""Frames and clips: sizes, joins, files. Pictures are [B, H, W, 3] from 0 to 1, as the host has them."""
