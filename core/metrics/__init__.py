"""Measures of images and videos: each says what it computes and from which weights."""
