"""The autoregressive loop of StreamingT2V (arXiv 2403.14773, section 4): each chunk begins with the end of the last.

A chunk generates the last frames of the clip again and continues from them; only the new frames are kept. Frames are
[T, ...], in any value range.
"""

from collections.abc import Callable, Iterator

from torch import Tensor


def extend_by_chunks(
    clip: Tensor, anchor: Tensor, overlap: int, chunks: range, generate: Callable[[int, Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """The new frames of each chunk, one chunk at a time.

    clip: the frames so far; its last `overlap` frames are enough.
    anchor: the frame that all chunks are conditioned on.
    chunks: their numbers; an interrupted run resumes with those that are missing.
    generate(number, before, anchor): frames of one chunk, of which the first `overlap` repeat `before`.

    Raises ValueError for a clip shorter than the overlap, for an overlap of 0, and for a chunk without new frames.
    """
    if overlap < 1:
        raise ValueError(f"overlap is {overlap}; at least 1 is expected.")
    if len(clip) < overlap:
        raise ValueError(f"The clip has {len(clip)} frames; overlap {overlap} needs at least {overlap}.")
    before = clip[-overlap:]
    for number in chunks:
        frames = generate(number, before, anchor)
        if len(frames) <= overlap:
            raise ValueError(f"A chunk of {len(frames)} frames has no new frames at overlap {overlap}.")
        yield frames[overlap:]
        before = frames[-overlap:]
