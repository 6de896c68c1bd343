"""Clips that go on, as what a model of long videos learns from: 24 frames each, from anywhere in a story that lasts.

A chunk of 16 frames lies somewhere in them; its first 8 are those that CAM is shown, as pixels. APM's anchor is one of
the first 16, as in the paper. CAM's pixels are what the autoencoder gives back, for a chunk before is never seen
otherwise; they are made once, with all the rest, because decoding is dearer than a quarter of a training step.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from storyreel.core.storyworld import world
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn

from .autoencoder import encode_all
from .classifier import to_images
from .clips import CHUNK, drawn, motion, of_frames, place_of, vision_embeds
from .trainer import autocast, device

LENGTH, MEMORY = 16, 8  # frames of a chunk, and how many of them stand for those before
ANCHORS = range(0, LENGTH, 3)  # frames of a clip that may be its anchor
BEGINNING = 1 / 3  # share of clips that show how all began, before the action is under way


@dataclass(frozen=True)
class LongRecipe:
    """Which clips: `count` of them from `seed`, gentle ones and slow pans. latest: the frame that any begins with at
    most; every motion of the world has repeated itself by then."""

    seed: int
    count: int
    frames: int = 24
    latest: int = 48

    def sample(self, index: int) -> tuple[Clip, int, int]:
        """Clip number `index`, its first frame, and where its chunk begins behind that."""
        rng = Random(f"long/{self.seed}/{index}")
        first = 0 if rng.random() < BEGINNING else rng.randint(1, self.latest)
        clip = replace(world.sample_clip(self.seed, index, wide=0.0), tempo=1.0)
        return clip, first, rng.randint(0, self.frames - LENGTH)


@dataclass(frozen=True)
class LongClips:
    """Encoded clips. latents: float16 [count, frames, 12, 16, 16]. motion: uint8 [count, frames, 16, 16], see
    `clips_data.motion`. before: uint8 [count, MEMORY, 128, 128, 3], the first frames of the chunk, decoded. anchors:
    float16 [count, N, width], the image tower's projections of the frames ANCHORS."""

    recipe: LongRecipe
    latents: Tensor
    motion: Tensor
    before: Tensor
    anchors: Tensor

    def __len__(self) -> int:
        return self.recipe.count


def draw_long(recipe: LongRecipe, autoencoder: nn.Module, vision: nn.Module, folder: Path) -> LongClips:
    """The clips of a recipe, from `folder` as far as an earlier run has drawn them for these very encoders."""

    def encode(frames: np.ndarray, chunks: np.ndarray) -> dict[str, np.ndarray]:
        latents = of_frames(encode_all, autoencoder, frames)
        before = [clip[start : start + MEMORY] for clip, start in zip(latents, chunks, strict=True)]
        anchors = of_frames(vision_embeds, vision, frames[:, ANCHORS])
        pixels = np.stack([decode(autoencoder, clip) for clip in before])
        return {"latents": latents.numpy(), "motion": motion(frames), "before": pixels, "anchors": anchors.numpy()}

    place = folder / place_of("long", recipe, (asdict(recipe), LENGTH, MEMORY, ANCHORS), autoencoder, vision)
    return LongClips(recipe, **drawn(place, recipe, _draw_chunk, encode))


@torch.no_grad()
def decode(autoencoder: nn.Module, latents: Tensor) -> np.ndarray:
    """uint8 [count, 128, 128, 3] of latents [count, 12, 16, 16]."""
    with autocast(device()):
        return to_images(autoencoder.decode(latents.to(device()).float()))


def _draw_chunk(recipe: LongRecipe, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [clips, frames, 128, 128, 3], and where the chunk of each clip begins."""
    sampled = [recipe.sample(index) for index in range(start, min(start + CHUNK, recipe.count))]
    frames = [world.render_clip(clip, recipe.frames, first=first).image for clip, first, _ in sampled]
    return np.stack(frames), np.array([chunk for _, _, chunk in sampled])
