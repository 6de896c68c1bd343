"""Consistent Self-Attention as a patch of the host's MODEL."""
