"""The framework of every measurement: models as the host runs them, a setting, and a row of means with intervals."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import bootstrap
from storyreel.core.networks.storyworld import Autoencoder
from storyreel.core.storyworld import world
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn

from .. import CLASSIFIERS, SHIPPED
from ..report.rows import Rows
from ..train import export
from ..train.classifier import Classifier, VideoClassifier

RESAMPLES = 2000
FRAMES = 16  # of a clip
HERO_COLORS = ("color", "hat color", "scarf color")
SHAPES = ("shape", "hat")

# show(caption, frames uint8 [T, H, W, 3]): gets every example, for a contact sheet
Show = Callable[[str, np.ndarray], None]


@dataclass(frozen=True)
class ClipTask:
    """A clip to be made or extended: the truth, its caption, and the seed of its noise."""

    clip: Clip
    caption: str
    seed: int

    @cached_property
    def drawing(self):
        """The first FRAMES frames, and where heroes are in them."""
        return world.render_clip(self.clip, FRAMES)

    @property
    def frames(self) -> np.ndarray:
        """uint8 [FRAMES, 128, 128, 3]."""
        return self.drawing.image

    def draw(self, frames: int) -> np.ndarray:
        """uint8 [frames, 128, 128, 3]."""
        return world.render_clip(self.clip, frames).image


def sample_named(rng: Random, *names: str) -> set[str]:
    """The attributes of a hero that a caption names: each in one of three."""
    return {name for name in names if rng.random() < 1 / 3}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to make examples, and how many of them the table has. frames: of an example."""

    name: str
    count: int = 0
    frames: int = FRAMES

    @property
    def key(self) -> tuple[str, int, int]:
        return self.name, self.count, self.frames


class Pipeline(ABC):
    """Models on the host and the classifiers that measure them.

    name: of the models in rows. parts: those whose files decide the rows. settings: of the whole table. file_name: of
    its rows. steps: of sampling.
    """

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    settings: ClassVar[Sequence[Setting]]
    file_name: ClassVar[str]
    steps: int

    def __init__(self, weights: Path | None = None, steps: int | None = None):
        """weights: a folder that a training wrote, instead of the models that ship."""
        import comfy.utils
        import folder_paths
        from storyreel.host import storyworld

        comfy.utils.set_progress_bar_enabled(False)
        self.weights = weights and weights.resolve()
        self.steps = steps or self.steps
        storyworld.register()
        if self.weights:
            folder_paths.add_model_folder_path(storyworld.FOLDER, str(self.weights), is_default=True)
        self.clip, self.vae = storyworld.load_clip(), storyworld.load_vae()
        self.clip_vision = storyworld.load_clip_vision()

    def file(self, part: str) -> Path:
        """Raises FileNotFoundError for a part that is not trained."""
        if part in export.CLASSIFIERS:
            return export.find(part, self.weights, CLASSIFIERS)
        return export.find(part, self.weights, *([] if self.weights else [SHIPPED]))

    def origin(self) -> dict[str, str]:
        """The models' name and the hash of their weights. With other weights, rows are measured again."""
        digest = hashlib.sha256(b"".join(self.file(part).read_bytes() for part in self.parts))
        return {"model": self.name, "weights": digest.hexdigest()[:16]}

    @cached_property
    def classifier(self) -> Classifier:
        return export.filled(Classifier(), self.file("classifier"))

    @cached_property
    def video_classifier(self) -> VideoClassifier:
        return export.filled(VideoClassifier(), self.file("video_classifier"))

    @cached_property
    def encoder(self) -> nn.Module:
        """The autoencoder through which the video classifier sees."""
        return export.filled(Autoencoder(), self.file("autoencoder"))

    def prompts(self, text: str) -> list:
        """(positive, negative) CONDITIONING."""
        return [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt)) for prompt in (text, "")]

    def decode(self, latents: Tensor) -> np.ndarray:
        """uint8 [T, 128, 128, 3]."""
        return as_bytes(self.vae.decode(latents))

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Drawn frames as the autoencoder returns them: the best that any of the models can reach."""
        return self.decode(self.vae.encode(as_input(frames)))

    @abstractmethod
    def evaluate(self, setting: Setting, seed: int, index: int, show: Show | None) -> dict[str, float | list[float]]:
        """The results of example number `index`. A list has one result for every chunk of the example."""

    def measure(self, setting: Setting, count: int, seed: int, show: Show | None = None) -> dict:
        """A row of the table: every result's mean over `count` examples with its 95 % interval."""
        with torch.no_grad():
            results = [self.evaluate(setting, seed, index, show) for index in range(count)]
        return {"setting": setting.name, "stories": count, "seed": seed, "frames": setting.frames} | summarize(results)

    @classmethod
    @abstractmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        """{place in the document: lines of a table}."""

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        """Write the plots of the whole table. Returns a sentence for every target that is missed."""
        return []


def summarize(results: Sequence[Mapping[str, float | list[float]]]) -> dict:
    """Every result's mean, with `_low` and `_high` of its interval; of a list, a triple for each of its entries."""
    row = {}
    for name in dict.fromkeys(name for result in results for name in result):
        values = [result.get(name, float("nan")) for result in results]
        if isinstance(values[0], list):
            row[name] = [list(map(rounded, interval(entries))) for entries in zip(*values, strict=True)]
        else:
            row |= zip((name, f"{name}_low", f"{name}_high"), map(rounded, interval(values)), strict=True)
    return row


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and its 95 % bootstrap interval by percentiles. NaN values are left out."""
    known = [value for value in values if not np.isnan(value)]
    if len(known) < 2:
        return (known[0] if known else float("nan"),) * 3
    draws = dict(n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return float(np.mean(known)), *map(float, bootstrap((known,), np.mean, **draws).confidence_interval)


def rounded(result: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if np.isnan(result) else round(result, 4)


def as_input(images: np.ndarray) -> Tensor:
    """IMAGE of uint8 images."""
    return torch.from_numpy(images.copy()).float() / 255


def as_bytes(images: Tensor) -> np.ndarray:
    """uint8 images of IMAGE."""
    return (images * 255).round().byte().numpy()


def psnr(images: np.ndarray, others: np.ndarray, where: np.ndarray | None = None) -> float:
    """In dB, of uint8 images; where: of these pixels only."""
    error = (images.astype(np.float64) - others) ** 2
    error = error.mean() if where is None else error[where].mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))
