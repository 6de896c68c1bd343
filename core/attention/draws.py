"""Random draws of Consistent Self-Attention, each a pure function of its key.

The published code draws from global generators and counts its calls, so its results change with the order
of the forward passes. Here every draw has a generator of its own, seeded by the purpose of the draw: passes may
be split, repeated or reordered, and the draws do not change. Any number may identify a step; the host uses its
noise level, which is the same in a whole run and in a run that is split over several samplers.
"""

import torch

from ..rng import generator

# Pixels a token spans at the coarse level of the published code ("sa32"); everything finer is its "sa64".
COARSE = 32


def rate_at(pixels: int, coarse: float, fine: float) -> float:
    """The sampling rate of a level whose tokens span so many pixels."""
    return coarse if pixels >= COARSE else fine


def coin(seed: int, step: float, layer: int) -> float:
    """Random number in [0, 1) that decides whether a layer shares tokens in a step (published: one per layer call)."""
    return torch.rand(1, generator=generator("coin", seed, step, layer)).item()


def sample_each(seed: int, step: float, level: int, frame: int, tokens: int, rate: float) -> torch.Tensor:
    """Token indices of one frame, each kept with probability `rate` (published code). Shape [m], ascending."""
    if rate >= 1:
        return torch.arange(tokens)
    kept = torch.rand(tokens, generator=generator("token", seed, step, level, frame)) < rate
    return kept.nonzero().flatten()


def sample_window(
    seed: int, step: float, level: int, window: int, frames: list[int], tokens: int, rate: float
) -> list[torch.Tensor]:
    """Token indices of each frame when `rate` of all tokens of a window are drawn together (Algorithm 1).

    floor(rate * len(frames) * tokens) tokens are drawn in total, whatever their distribution over the frames. Each
    frame draws a score for each of its tokens under a key of its own; the lowest scores of the window are drawn.
    """
    if not frames or rate >= 1:
        return [torch.arange(tokens) for _ in frames]
    scores = torch.stack(
        [torch.rand(tokens, generator=generator("window", seed, step, level, window, frame)) for frame in frames]
    )
    drawn = torch.zeros(scores.numel(), dtype=torch.bool)
    drawn[scores.flatten().argsort(stable=True)[: int(rate * scores.numel())]] = True
    return [row.nonzero().flatten() for row in drawn.view_as(scores)]
