"""Random draws of Consistent Self-Attention, each a pure function of its key.

The published code draws from global generators and counts its calls, so its results change with the order
of the forward passes. Here every draw has a generator of its own, seeded by what the draw is for: passes may
be split, repeated or reordered and the draws stay what they were. A step may have any number as its name; the
host's is its noise level, which a run and its parts have in common.
"""

import torch

from ..rng import generator


def coin(seed: int, step: float, layer: int) -> float:
    """A number in [0, 1) that decides whether a layer shares tokens in this step (published: one per layer call)."""
    return torch.rand(1, generator=generator("coin", seed, step, layer)).item()


def sample_each(seed: int, step: float, level: int, frame: int, tokens: int, rate: float) -> torch.Tensor:
    """Token numbers of one frame, each kept with probability `rate` (published code). Shape [m], ascending."""
    if rate >= 1:
        return torch.arange(tokens)
    kept = torch.rand(tokens, generator=generator("token", seed, step, level, frame)) < rate
    return kept.nonzero().flatten()


def sample_window(
    seed: int, step: float, level: int, window: int, frames: list[int], tokens: int, rate: float
) -> list[torch.Tensor]:
    """Token numbers of each frame when `rate` of all tokens of a window are drawn together (Algorithm 1).

    The number drawn is floor(rate * len(frames) * tokens), however it falls on the frames. Each frame draws a
    score for each of its tokens under a key of its own; the lowest scores of the window are taken.
    """
    if not frames or rate >= 1:
        return [torch.arange(tokens) for _ in frames]
    scores = torch.stack(
        [torch.rand(tokens, generator=generator("window", seed, step, level, window, frame)) for frame in frames]
    )
    taken = torch.zeros(scores.numel(), dtype=torch.bool)
    taken[scores.flatten().argsort(stable=True)[: int(rate * scores.numel())]] = True
    return [row.nonzero().flatten() for row in taken.view_as(scores)]
