"""What is measured in frames alone: where a hero is, what is in the background, how frames resemble and follow each
other, at the borders of chunks above all, and how their colors drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from storyreel.core.metrics.borders import Change, jump_ratio
from storyreel.core.metrics.cuts import Cuts
from storyreel.core.metrics.drift import COLORS as CHANNELS
from storyreel.core.metrics.drift import Drift
from storyreel.core.metrics.flow import dis_flow
from storyreel.core.metrics.metric import Metric, evaluate
from storyreel.core.metrics.motion import Motion
from storyreel.core.storyworld.attributes import COLORS
from storyreel.core.storyworld.world import SIZE
from torch import Tensor
from torch.nn import functional as F

from ..train.pictures import Recipe, draw

PALETTE = np.array(list(COLORS.values()), np.float32)
NEAR = 60  # of RGB, 0 to 255: so near to one of their colors nothing is drawn but heroes
LEAST = 12  # pixels: fewer are no hero
BACKGROUNDS = Recipe(seed=3000, count=768, twins=0.0, triplets=0.0)
LEVELS = 32  # of a color channel
ENOUGH = 3  # so many pixels of a color in the drawn pictures of a scene make it one of the scene's
TOP, SIDE = 28, 10  # pixels of the border, where a hero seldom stands
FLOW_SIDE = 128  # pixels of the square on which flow is measured: nothing is made larger than it was drawn


def heroes_in(frame: np.ndarray) -> np.ndarray:
    """bool [128, 128]: what has a hero's color in a frame [128, 128, 3] of 0 to 255."""
    return (np.linalg.norm(frame[:, :, None] - PALETTE, axis=-1) < NEAR).any(-1)


def is_hero(mask: np.ndarray) -> bool:
    return mask.sum() >= LEAST


def centre_of(mask: np.ndarray) -> np.ndarray:
    """(x, y) in pixels. On drawn frames off by .4 on average, 1 at most."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def border() -> np.ndarray:
    """bool [128, 128]: the top of a picture and its sides."""
    here = np.zeros((SIZE, SIZE), bool)
    here[:TOP] = here[:, :SIDE] = here[:, -SIDE:] = True
    return here


class Backgrounds:
    """The colors of every scene, learned from drawn pictures as the autoencoder gives them back."""

    def __init__(self, folder: Path, reconstruct: Callable[[np.ndarray], np.ndarray]):
        pictures = draw(BACKGROUNDS, folder)
        self._border = border()
        colors: dict[str, torch.Tensor] = {}
        for index in range(len(pictures)):
            scene = pictures.truth(index).scene
            seen = reconstruct(pictures.images[index][None])[0]
            free = self._border & (pictures.heroes[index] == 0)
            colors.setdefault(scene, torch.zeros(LEVELS, LEVELS, LEVELS)).index_put_(
                _cells(seen[free]), torch.ones(()), accumulate=True
            )
        # A color next to one of the scene's is one of them, too.
        self._known = {
            scene: F.max_pool3d((count >= ENOUGH)[None, None].float(), 3, 1, 1)[0, 0].bool()
            for scene, count in colors.items()
        }

    def stray(self, image: np.ndarray, scene: str) -> float:
        """Share of the border's pixels in a color that `scene` does not have. image: uint8 [128, 128, 3]."""
        return 1 - self._known[scene][_cells(image[self._border])].float().mean().item()


def _cells(pixels: np.ndarray) -> tuple[torch.Tensor, ...]:
    """uint8 [n, 3] -> the indices of their colors."""
    return tuple(torch.from_numpy(pixels.astype(np.int64) * LEVELS // 256).T)


@torch.no_grad()
def frame_similarity(clip_vision, frames: Tensor) -> dict[str, float]:
    """Of an IMAGE [T, H, W, 3], each frame but the first with the first one and with the one before, means over them.

    These are the four results of StoryDiffusion's table of videos (arXiv 2405.01434) in their form, by features of
    Storyworld's image tower in the place of LPIPS's network and of CLIP: they cannot be compared with the paper's.

    clip_first, clip_frames: cosines of embeddings (CLIPSIM's form). patches_first, patches_frames: squared distances of
    patches' features of length 1, means over places (the form of LPIPS, arXiv 1801.03924, equation 1, of one layer and
    without learned weights).
    """
    seen = clip_vision.encode_image(frames)
    embeds = F.normalize(seen["image_embeds"].float(), dim=-1)
    patches = F.normalize(seen["penultimate_hidden_states"][:, 1:].float(), dim=-1)
    results = {}
    for name, of in (("first", slice(0, 1)), ("frames", slice(0, -1))):
        results[f"clip_{name}"] = (embeds[1:] * embeds[of]).sum(-1).mean().item()
        results[f"patches_{name}"] = (patches[1:] - patches[of]).square().sum(-1).mean().item()
    return results


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
    motion = Motion(dis_flow(), "DIS", FLOW_SIDE)
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
