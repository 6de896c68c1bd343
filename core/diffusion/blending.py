"""Randomized blending (StreamingT2V, arXiv 2403.14773, section 4.3): a long clip denoised in chunks, without seams.

Neighboring chunks share frames and the noise of these frames. At every evaluation of the model the transition from a
chunk to the next is at another random frame, so that no frame stays a border.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..rng import generator


def chunk_starts(frames: int, length: int, overlap: int) -> list[int]:
    """First frames of the chunks that cover a clip.

    If the chunks do not divide the clip, the last chunk moves back and shares more frames with the one before it.
    Raises ValueError for an overlap that is not in [1, length).
    """
    if not 1 <= overlap < length:
        raise ValueError(f"chunks of {length} frames overlap by {overlap}; 1 to {length - 1} is expected.")
    starts = list(range(0, max(1, frames - overlap), length - overlap))
    starts[-1] = max(0, min(starts[-1], frames - length))
    return starts


def draw_offsets(starts: Sequence[int], length: int, seed: int, sigma: float) -> list[int]:
    """How many of its first frames each chunk leaves to the one before it, for one evaluation of the model.

    The first leaves none, the others 0 to overlap - 1 (the paper says to overlap, its code leaves that out). A pure
    function of seed, sigma and chunk, so that cond and uncond agree.
    """
    offsets = [0]
    for number in range(1, len(starts)):
        overlap = starts[number - 1] + length - starts[number]
        draw = torch.randint(overlap, (1,), generator=generator("blend", seed, float(sigma), number))
        offsets.append(int(draw))
    return offsets


def blend(chunks: Sequence[Tensor], starts: Sequence[int], offsets: Sequence[int], dim: int = 2) -> Tensor:
    """The clip that chunks make, along `dim`: each chunk overwrites the ones before from its offset on.

    Blend x_0 (as published for MS-Vid2Vid), or x of the next step (as published for I2VGen-XL, and in the paper).
    """
    shape = list(chunks[0].shape)
    shape[dim] = starts[-1] + chunks[-1].shape[dim]
    clip = chunks[0].new_empty(shape)
    for chunk, start, offset in zip(chunks, starts, offsets, strict=True):
        write_chunk(clip, chunk, start, offset, dim)
    return clip


def write_chunk(clip: Tensor, chunk: Tensor, start: int, offset: int, dim: int) -> None:
    """Write a chunk into a clip at frame `start`, without the chunk's first `offset` frames."""
    kept = chunk.shape[dim] - offset
    clip.narrow(dim, start + offset, kept).copy_(chunk.narrow(dim, offset, kept))
