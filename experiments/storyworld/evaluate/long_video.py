"""What can be seen of a long video without knowing what it shows: how its frames follow each other, at the borders of
its chunks above all, and how its colours drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from storyreel.core.metrics.borders import Change, jump_ratio
from storyreel.core.metrics.cuts import Cuts
from storyreel.core.metrics.drift import COLORS as CHANNELS
from storyreel.core.metrics.drift import Drift
from storyreel.core.metrics.flow import dis_flow
from storyreel.core.metrics.metric import Metric, evaluate
from storyreel.core.metrics.motion import Motion
from torch import Tensor

from .detection import centre_of, heroes_in, is_hero

SIDE = 128  # pixels of the square on which flow is measured: nothing is made larger than it was drawn


class Hero(Metric):
    """How far the hero's centre moves from frame to frame, in pixels. No value where nobody is seen."""

    name = "hero"

    def __init__(self):
        super().__init__("step")
        self._before: np.ndarray | None = None

    def update(self, frame: Tensor) -> None:
        mask = heroes_in(frame.numpy() * 255)
        centre = centre_of(mask) if is_hero(mask) else None
        known = centre is not None and self._before is not None
        self.record(step=float(np.linalg.norm(centre - self._before)) if known else None)
        self._before = centre

    def results(self) -> dict:
        return {}


def per_frame_results(video: Tensor, borders: Sequence[int]) -> tuple[dict[str, float], np.ndarray]:
    """(results, drift) of IMAGE [T, H, W, 3]. borders: the first frames of chunks.

    hero_jump and hero_step: pixels at borders and elsewhere. jump and flow_jump: the mean change and the mean flow at
    borders over those elsewhere. cuts. flow_deviation, in pixels. drift: of each frame's red, green and blue from the
    first frame's, the mean of their sizes, in percent. Raises ImportError without PySceneDetect.
    """
    change, drift, hero, cuts = Change(), Drift(video[0]), Hero(), Cuts()
    motion = Motion(dis_flow(), "DIS", SIDE)
    evaluate(video, [change, drift, hero, cuts, motion])
    steps = np.array([np.nan if step is None else step for step in hero.per_frame["step"]])
    at = np.isin(np.arange(len(video)), borders)
    found = {
        "hero_jump": _mean(steps[at]),
        "hero_step": _mean(steps[~at]),
        "jump": jump_ratio(change.per_frame["change"], borders),
        "flow_jump": jump_ratio(motion.per_frame["motion"], borders),
        "cuts": cuts.results()["scuts"],
        "flow_deviation": motion.results()["flow_deviation"],
    }
    results = {name: float("nan") if result is None else float(result) for name, result in found.items()}
    return results, np.mean([np.abs(drift.per_frame[channel]) for channel in CHANNELS], 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
