"""A long clip from chunks that each begin with the end of the one before (StreamingT2V, arXiv 2403.14773, section 4).

A chunk makes the last frames of the clip anew and goes on behind them; only what is behind them is kept. Frames are
[T, ...], in whatever range the chunks are made in.
"""

from collections.abc import Callable, Iterator

from torch import Tensor


def extend(
    clip: Tensor, anchor: Tensor, memory: int, chunks: range, make: Callable[[int, Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """The new frames of each chunk, one after the other.

    clip: what there is so far; its last `memory` frames are enough.
    anchor: the frame that every chunk is to look like, whatever came since.
    chunks: their numbers; a run that was interrupted goes on with those that are missing.
    make(number, before, anchor): frames of one chunk, of which the first `memory` stand for `before`.

    Raises ValueError for a clip that is shorter than the memory, for no memory, and for a chunk with nothing new.
    """
    if memory < 1:
        raise ValueError(f"a chunk looks back at {memory} frames; at least 1 is expected.")
    if len(clip) < memory:
        raise ValueError(f"the clip has {len(clip)} frames; a chunk looks back at {memory}.")
    before = clip[-memory:]
    for number in chunks:
        made = make(number, before, anchor)
        if len(made) <= memory:
            raise ValueError(
                f"a chunk of {len(made)} frames has nothing new behind the {memory} that it looks back at."
            )
        yield made[memory:]
        before = made[-memory:]
