"""Measures with the networks that the user has."""
