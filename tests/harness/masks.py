"""Masks of images."""

import torch


def left_half(*shares: float) -> torch.Tensor:
    """MASK [F, 128, 64] of the left part of each frame, so many of its pixels wide."""
    return torch.stack([(torch.arange(64) < 64 * share).float().expand(128, 64) for share in shares])
