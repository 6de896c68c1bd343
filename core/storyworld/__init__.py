"""Storyworld: a drawn world so small that models of it can be trained anywhere, with the truth of every picture."""
