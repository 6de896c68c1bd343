"""A long clip from chunks that each begin with the end of the one before (StreamingT2V, arXiv 2403.14773, section 4).

A chunk regenerates the last frames of the clip and continues after them. Only the frames after them are kept. Frames
are [T, ...], in the range that the chunks have.
"""

from collections.abc import Callable, Iterator

from torch import Tensor


def extend(
    clip: Tensor, anchor: Tensor, overlap: int, chunks: range, make: Callable[[int, Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """The new frames of each chunk, one after the other.

    clip: the frames so far; the last `overlap` frames are enough.
    anchor: the frame that every chunk should resemble.
    chunks: their numbers; a resumed run has those that are missing.
    make(number, before, anchor): frames of one chunk, of which the first `overlap` repeat `before`.

    Raises ValueError for a clip that is shorter than the overlap, for an overlap below 1, and for a chunk
    without new frames.
    """
    if overlap < 1:
        raise ValueError(f"overlap is {overlap}; at least 1 is expected.")
    if len(clip) < overlap:
        raise ValueError(f"the clip has {len(clip)} frames; the overlap of {overlap} needs as many.")
    before = clip[-overlap:]
    for number in chunks:
        frames = make(number, before, anchor)
        if len(frames) <= overlap:
            raise ValueError(f"a chunk of {len(frames)} frames has no new frames after its overlap of {overlap}.")
        yield frames[overlap:]
        before = frames[-overlap:]
