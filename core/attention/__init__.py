"""Consistent Self-Attention on tokens (image, position, channel); it knows no network."""
