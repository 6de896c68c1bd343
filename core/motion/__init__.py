"""Motions as image tokens, and plots of motions and trainings."""
