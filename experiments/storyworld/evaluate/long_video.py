"""What can be seen of a long video without knowing what it shows: how its frames follow each other, at the borders of
its chunks above all, and how its colours drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pack
from torch import Tensor

pack.load_pack()
from storyreel.core.metrics.borders import Change, jump_ratio  # noqa: E402
from storyreel.core.metrics.cuts import Cuts  # noqa: E402
from storyreel.core.metrics.drift import COLOURS as CHANNELS  # noqa: E402
from storyreel.core.metrics.drift import Drift  # noqa: E402
from storyreel.core.metrics.flow import dis_flow  # noqa: E402
from storyreel.core.metrics.metric import Watcher, watch  # noqa: E402
from storyreel.core.metrics.motion import Motion  # noqa: E402

from .detection import centre_of, heroes_in, is_hero  # noqa: E402

SIDE = 128  # pixels of the square on which flow is measured: nothing is made larger than it was drawn


class Hero(Watcher):
    """How far the hero's centre moves from frame to frame, in pixels. No value where nobody is seen."""

    name = "hero"

    def __init__(self):
        super().__init__("step")
        self._before: np.ndarray | None = None

    def see(self, frame: Tensor) -> None:
        mask = heroes_in(frame.numpy() * 255)
        centre = centre_of(mask) if is_hero(mask) else None
        known = centre is not None and self._before is not None
        self.note(step=float(np.linalg.norm(centre - self._before)) if known else None)
        self._before = centre

    def figures(self) -> dict:
        return {}


@dataclass(frozen=True)
class Seen:
    """figures: hero_jump and hero_step, pixels at borders and elsewhere; jump and flow_jump, the mean change and the
    mean flow at borders over those elsewhere; cuts; flow_deviation, in pixels. drift: of each frame's red, green and
    blue from the first frame's, the mean of their sizes, in percent."""

    figures: dict[str, float]
    drift: np.ndarray


def watch_video(video: Tensor, borders: Sequence[int]) -> Seen:
    """Of IMAGE [T, H, W, 3]. borders: the first frames of chunks. Raises ImportError without PySceneDetect."""
    change, drift, hero, cuts = Change(), Drift(video[0]), Hero(), Cuts()
    motion = Motion(dis_flow(), "DIS", SIDE)
    watch(video, [change, drift, hero, cuts, motion])
    steps = np.array([np.nan if step is None else step for step in hero.series["step"]])
    at = np.isin(np.arange(len(video)), borders)
    moved = {
        "hero_jump": _mean(steps[at]),
        "hero_step": _mean(steps[~at]),
        "jump": jump_ratio(change.series["change"], borders),
        "flow_jump": jump_ratio(motion.series["motion"], borders),
        "cuts": cuts.figures()["scuts"],
        "flow_deviation": motion.figures()["flow_deviation"],
    }
    figures = {name: float("nan") if figure is None else float(figure) for name, figure in moved.items()}
    return Seen(figures, np.mean([np.abs(drift.series[channel]) for channel in CHANNELS], 0))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
