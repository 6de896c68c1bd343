"""Clips put together. Frames are [T, H, W, 3] from 0 to 1."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pairs(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Neighbors in [K, H, W, 3] as K - 1 pairs of [1, H, W, 3]. Raises ValueError for fewer than two."""
    if len(images) < 2:
        found = "1 image makes" if len(images) else "0 images make"
        raise ValueError(f"{found} no transition; at least 2 are expected.")
    return [(images[i : i + 1], images[i + 1 : i + 2]) for i in range(len(images) - 1)]


def join(clips: Sequence[Tensor], shared_ends: bool = True, loop: bool = False) -> Tensor:
    """One clip. shared_ends: a clip begins with the frame that the one before ends with, which is kept once.
    loop: the last frame repeats the first and is left out, so that the clip loops.

    Raises ValueError for clips of different sizes, and if no frame is left.
    """
    if not clips:
        raise ValueError("there are no clips; at least 1 is expected.")
    for number, clip in enumerate(clips, 1):
        if not len(clip):
            raise ValueError(f"clip {number} holds no frames; at least 1 is expected.")
    sizes = {f"{clip.shape[2]} x {clip.shape[1]}": number for number, clip in enumerate(clips, 1)}
    if len(sizes) > 1:
        found = ", ".join(
            f"clip {number} is {size}" for size, number in sorted(sizes.items(), key=lambda item: item[1])
        )
        raise ValueError(f"{found}; clips of one size are expected.")
    parts = [clip[1:] if number and shared_ends else clip for number, clip in enumerate(clips)]
    joined = torch.cat(parts)
    if loop and len(joined) < 2:
        raise ValueError("loop leaves out the last frame, and the clips hold 1 together; at least 2 are expected.")
    return joined[:-1] if loop else joined
