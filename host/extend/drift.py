"""Finds the chunk at which a video has drifted from a frame of its clip: by the metrics of Measure Video."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...core.metrics.drift import COLORS, END, Drift
from ...core.metrics.likeness import Likeness, likeness_to
from ...core.metrics.metric import Metric, mean
from ..metrics.encoders import LinkedEncoder
from ..video import file

LIKENESS = "anchor_likeness"


@dataclass(frozen=True)
class DriftLimits:
    """How far the last frames of a chunk may be from a frame of the clip; 0: any distance.

    max_color_drift: of mean red, green or blue, in percent of the full range. max_sharpness_drift: in percent of the
    frame's own. min_likeness: cosine of the embeddings of an image encoder.
    """

    max_color_drift: float = 0.0
    max_sharpness_drift: float = 0.0
    min_likeness: float = 0.0

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def check(self, clip_vision) -> None:
        """Raise ValueError for a limit that needs an input which is empty."""
        if self.min_likeness and clip_vision is None:
            raise ValueError("min_likeness needs an image encoder: connect clip_vision, or set it to 0.")


@dataclass(frozen=True)
class Departure:
    """text: what is out of range, and by how much. frame: of the chunk, the first one that is, from 0."""

    text: str
    frame: int


class DriftWatch:
    """Measures chunks against `anchor`, a frame [H, W, 3] of the clip. Raises ValueError for one without edges, if
    sharpness is limited."""

    def __init__(self, limits: DriftLimits, anchor: Tensor, clip_vision):
        self.limits, self.anchor = limits, anchor
        self.encoder = LinkedEncoder(clip_vision, None) if limits.min_likeness else None
        self.target = None if self.encoder is None else self.encoder.embed_images(anchor[None])[0]
        if limits.max_sharpness_drift:
            flat = Drift(anchor)
            flat.update(anchor)
            if flat.per_frame["sharpness"] == [None]:
                raise ValueError("max_sharpness_drift is set, but the anchor frame has one color. Choose another one.")

    def departure(self, frames: Iterable[np.ndarray]) -> Departure | None:
        """Where the new frames of a chunk, uint8 [H, W, 3], leave the range; None if their last ones are within."""
        metrics = self._metrics()
        for frame in frames:
            pixels = file.to_tensor(frame)
            for metric in metrics:
                metric.update(pixels)
        for metric in metrics:
            metric.results()  # an encoder's last frames are waiting for it
        series = {name: values for metric in metrics for name, values in metric.per_frame.items()}
        texts, first = [], []
        for name, outside, text in self._checks():
            end = mean(series[name][-END:])
            if end is not None and outside(end):
                texts.append(text(end))
                first.append(next(i for i, v in enumerate(series[name]) if v is not None and outside(v)))
        return Departure(", ".join(texts), min(first)) if texts else None

    def _metrics(self) -> list[Metric]:
        metrics: list[Metric] = []
        if self.limits.max_color_drift or self.limits.max_sharpness_drift:
            metrics.append(Drift(self.anchor))
        if self.encoder is not None and self.target is not None:
            scores = [likeness_to(LIKENESS, self.target)]
            metrics.append(Likeness(self.encoder.embed_images, self.encoder.name, scores))
        return metrics

    def _checks(self) -> list[tuple[str, Callable[[float], bool], Callable[[float], str]]]:
        """(series, whether a value of it is out of range, the sentence about it)"""
        limits = vars(self.limits)

        def further(name: str, limit: str) -> tuple:
            most = limits[limit]
            return name, lambda value: abs(value) > most, lambda value: f"{name} {value:+.1f} % ({limit} {most:g})"

        checks = [further(color, "max_color_drift") for color in COLORS] if self.limits.max_color_drift else []
        if self.limits.max_sharpness_drift:
            checks.append(further("sharpness", "max_sharpness_drift"))
        if least := self.limits.min_likeness:
            text = f"(min_likeness {least:g})"
            checks.append((LIKENESS, lambda value: value < least, lambda value: f"likeness {value:.3f} {text}"))
        return checks
