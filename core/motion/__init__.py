"""Paths of what moves in a clip, and pictures of them and of a training."""
