"""Consistent Self-Attention on tokens [image, position, channel], independent of any network."""
