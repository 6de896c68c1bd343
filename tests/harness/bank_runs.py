"""Runs that record or read a bank."""

import torch

BOTH = ("A", "B", "AB", "")  # two characters, both of them, nobody


def rows(conditioning, *places):
    """The prompts of some images of a batch."""
    return [[cond[list(places)], {k: v[list(places)] for k, v in extras.items()}] for cond, extras in conditioning]


def noise_of(*indices, height=8, width=8):
    """Latents whose noise is that of these images of a batch."""
    return {"samples": torch.zeros(len(indices), 4, height, width), "batch_index": list(indices)}


def differs(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()
