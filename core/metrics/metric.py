"""Metrics of a video that read it frame by frame and keep numbers only: memory does not grow with its length."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor


class Metric:
    """One metric, or a group of metrics that are computed together.

    name: the key of its results in a report. per_frame: {name: one value per frame}, None where there is no value.
    not_computed: {metric: reason} of the metrics that could not be computed, known after `results`; if there are any,
    the whole group is left out of the report.
    """

    name: str

    def __init__(self, *names: str):
        self.per_frame: dict[str, list[float | None]] = {name: [] for name in names}
        self.not_computed: dict[str, str] = {}

    def update(self, frame: Tensor) -> None:
        """Process the next frame, [H, W, 3] from 0 to 1."""
        raise NotImplementedError

    def results(self) -> dict:
        """The results after the last frame, fit for JSON."""
        raise NotImplementedError

    def record(self, **values: float | None) -> None:
        for name, value in values.items():
            self.per_frame[name].append(finite(value))


def finite(value: float | None) -> float | None:
    """None for infinite values and NaN."""
    return value if value is not None and math.isfinite(value) else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def evaluate(frames: Iterable[Tensor], metrics: Sequence[Metric]) -> tuple[int, int, int]:
    """Update every metric with every frame, and return (number of frames, height, width).

    Raises ValueError for frames of different sizes and for fewer than two frames.
    """
    count = height = width = 0
    for frame in frames:
        if count == 0:
            height, width = frame.shape[:2]
        if frame.shape[:2] != (height, width):
            wide, tall = frame.shape[1], frame.shape[0]
            raise ValueError(f"Frame {count} is {wide} x {tall}, and those before it are {width} x {height}.")
        for metric in metrics:
            metric.update(frame)
        count += 1
    if count < 2:
        raise ValueError(f"The video has {count} frame{'s' * (count != 1)}; at least 2 are needed to measure it.")
    return count, height, width
