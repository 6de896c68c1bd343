"""Whether one can see where the chunks of a long video meet."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .metric import Metric, mean


class Change(Metric):
    """How much changes from frame to frame: the mean absolute difference, in gray levels of 255."""

    name = "change"

    def __init__(self):
        super().__init__("change")
        self._before: Tensor | None = None

    def update(self, frame: Tensor) -> None:
        self.record(change=None if self._before is None else (frame - self._before).abs().mean().item() * 255)
        self._before = frame

    def results(self) -> dict:
        return {"mean": mean(self.per_frame["change"])}


@dataclass(frozen=True)
class Chunks:
    """Each chunk has `length` frames and adds what lies behind the `overlap` that it repeats of those before. The first
    `first` frames, by default one chunk, were there before: a clip that was extended.

    Raises ValueError for an overlap that leaves nothing new.
    """

    length: int
    overlap: int
    first: int = 0

    def __post_init__(self):
        if self.overlap >= self.length:
            raise ValueError(f"overlap is {self.overlap}: a chunk of {self.length} frames has nothing new behind it.")

    def borders(self, count: int) -> list[int]:
        """The first new frame of each further chunk, counted from 0, in a video of `count` frames."""
        return list(range(self.first or self.length, count, self.length - self.overlap))


class Borders(Metric):
    """Where the chunks of the video meet."""

    name = "borders"

    def __init__(self, chunks: Chunks):
        super().__init__()
        self._chunks, self._count = chunks, 0

    def update(self, frame: Tensor) -> None:
        self._count += 1

    def results(self) -> dict:
        borders = self._chunks.borders(self._count)
        if not borders:
            first = self._chunks.first or self._chunks.length
            self.not_computed = {"chunk borders": f"there is no second chunk: the first has {first} frames."}
        return {"at": borders}


def jump_ratio(series: Sequence[float | None], borders: Sequence[int]) -> float | None:
    """Mean at the borders over the mean elsewhere: 1 where nobody can tell them. None where nothing happens elsewhere.

    series: one value a frame, of what lies between it and the frame before.
    """
    at = set(borders)
    there = mean(series[border] for border in borders)
    elsewhere = mean(value for frame, value in enumerate(series) if frame not in at)
    return there / elsewhere if there is not None and elsewhere else None
