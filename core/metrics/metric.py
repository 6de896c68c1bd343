"""Measures that see a video frame by frame and keep nothing of it but figures, so that its length costs no memory."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor


class Watcher:
    """One measure. name: of its group of figures. series: {name: one value a frame}, None where there is no value.

    unfit: {measure: why} of what turned out to have no figures, known once they were asked for; with it, nothing of the
    group counts.
    """

    name: str

    def __init__(self, *names: str):
        self.series: dict[str, list[float | None]] = {name: [] for name in names}
        self.unfit: dict[str, str] = {}

    def see(self, frame: Tensor) -> None:
        """The next frame, [H, W, 3] from 0 to 1."""
        raise NotImplementedError

    def figures(self) -> dict:
        """What there is to say after the last frame."""
        raise NotImplementedError

    def note(self, **values: float | None) -> None:
        for name, value in values.items():
            self.series[name].append(finite(value))


def finite(value: float | None) -> float | None:
    """None for what is no number: nothing moved, nothing differed."""
    return value if value is not None and math.isfinite(value) else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are; None without any."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def watch(frames: Iterable[Tensor], watchers: Sequence[Watcher]) -> tuple[int, int, int]:
    """Show every frame to every watcher: (how many there were, their height, their width).

    Raises ValueError for frames of several sizes and for fewer than two.
    """
    count, size = 0, None
    for frame in frames:
        size = size or tuple(frame.shape[:2])
        if frame.shape[:2] != size:
            wide, tall = frame.shape[1], frame.shape[0]
            raise ValueError(f"Frame {count} is {wide} x {tall}, and those before it are {size[1]} x {size[0]}.")
        for watcher in watchers:
            watcher.see(frame)
        count += 1
    if count < 2:
        raise ValueError(f"The video has {count} frame{'s' * (count != 1)}; at least 2 are needed to measure it.")
    return count, *size
