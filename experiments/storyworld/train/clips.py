"""Clips of the world as what video models learn from: latents, where something moves, and what the image tower sees.

Drawn by all processors and encoded once, in files of a few clips each, so that a run that was stopped resumes drawing
where it was.

The streaming model learns from clips that start anywhere in a story that lasts. A chunk lies somewhere in them; its
first frames are those that CAM is shown, as pixels. APM's anchor is one of the first 16, as in the paper. CAM's pixels
are what the autoencoder gives back, for a chunk before is never seen otherwise; they are made once, with all the rest,
because decoding is dearer than a quarter of a training step.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
import torch
from storyreel.core.storyworld import world
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn

from .drawing import in_order
from .encoding import EMBEDS, LAST, PENULTIMATE, decode, encode, of_frames, vision_output

CHUNK = 64  # clips of a file
FPS = 8  # frames a second at the usual tempo
RATES = range(6, 11)  # the frame rates that clips come with: fewer are more motion from frame to frame
CELL = 8  # pixels a side to a latent
LENGTH, MEMORY = 16, 8  # frames of a chunk, and how many of them stand for those before
ANCHORS = range(0, LENGTH, 3)  # frames of a clip that may be its anchor
BEGINNING = 1 / 3  # share of long clips that show how all began, before the action is under way


@dataclass(frozen=True)
class ClipRecipe:
    """Which clips: `count` of them from `seed`. wide: the share that cross the picture.

    What is encoded of each, beside latents and motion: `tokens` of the last layer, float16 [2, N, width], of its first
    frame and of any other.
    """

    seed: int
    count: int
    frames: int = 16
    wide: float = 0.15
    kind: ClassVar[str] = "video"
    least: ClassVar[int] = 8  # clips of a tried-out stage

    @property
    def identity(self) -> tuple:
        """All that says which clips those are."""
        return asdict(self), RATES

    def sample(self, index: int) -> tuple[Clip, int]:
        """Clip number `index`, and its frames a second. Start, look and place say nothing of the action."""
        rate = Random(f"rate/{self.seed}/{index}").choice(RATES)
        return replace(world.sample_clip(self.seed, index, wide=self.wide), tempo=FPS / rate), rate

    def draw(self, index: int) -> tuple[np.ndarray, int]:
        """Frames uint8 [T, 128, 128, 3], and the number of one that is not the first."""
        other = Random(f"other/{self.seed}/{index}").randrange(1, self.frames)
        return world.render_clip(self.sample(index)[0], self.frames).image, other

    def encode(self, frames: np.ndarray, others: np.ndarray, latents: Tensor, autoencoder, vision) -> dict[str, Tensor]:
        """What is kept of clips, beside latents and motion. others: what `draw` gave with each."""
        seen = np.stack([frames[:, 0], frames[np.arange(len(frames)), others]], 1)
        return {"tokens": of_frames(vision_output, vision, seen, LAST)}


class MotionRecipe(ClipRecipe):
    """Clips as what decoders of image tokens learn from. `seen`: float16 [T, N, width], of every frame the tokens of
    the last layer but one."""

    kind: ClassVar[str] = "motion"

    def encode(self, frames: np.ndarray, others: np.ndarray, latents: Tensor, autoencoder, vision) -> dict[str, Tensor]:
        return {"seen": of_frames(vision_output, vision, frames, PENULTIMATE)}


@dataclass(frozen=True)
class LongRecipe:
    """Which long clips: `count` of them from `seed`, gentle ones and slow pans. latest: the frame that any begins with
    at most; every motion of the world has repeated itself by then.

    What is encoded of each, beside latents and motion: `before`, uint8 [MEMORY, 128, 128, 3], the first frames of the
    chunk, decoded; `anchors`, float16 [N, width], the image tower's projections of the frames ANCHORS.
    """

    seed: int
    count: int
    frames: int = 24
    latest: int = 48
    kind: ClassVar[str] = "long"
    least: ClassVar[int] = ClipRecipe.least

    @property
    def identity(self) -> tuple:
        return asdict(self), LENGTH, MEMORY, ANCHORS

    def sample(self, index: int) -> tuple[Clip, int, int]:
        """Clip number `index`, its first frame, and where its chunk begins behind that."""
        rng = Random(f"long/{self.seed}/{index}")
        first = 0 if rng.random() < BEGINNING else rng.randint(1, self.latest)
        clip = replace(world.sample_clip(self.seed, index, wide=0.0), tempo=1.0)
        return clip, first, rng.randint(0, self.frames - LENGTH)

    def draw(self, index: int) -> tuple[np.ndarray, int]:
        """Frames uint8 [frames, 128, 128, 3], and where the chunk begins."""
        clip, first, chunk = self.sample(index)
        return world.render_clip(clip, self.frames, first=first).image, chunk

    def encode(self, frames: np.ndarray, chunks: np.ndarray, latents: Tensor, autoencoder, vision) -> dict[str, Tensor]:
        before = [clip[start : start + MEMORY] for clip, start in zip(latents, chunks, strict=True)]
        anchors = of_frames(vision_output, vision, frames[:, ANCHORS], EMBEDS)
        pixels = np.stack([decode(autoencoder, clip) for clip in before])
        return {"before": torch.from_numpy(pixels), "anchors": anchors}


@dataclass(frozen=True)
class Clips:
    """Encoded clips. latents: float16 [count, T, 12, 16, 16]. motion: uint8 [count, T, 16, 16], how much each cell
    differs from a neighboring frame's. encoded: see the recipe."""

    recipe: ClipRecipe | LongRecipe
    latents: Tensor
    motion: Tensor
    encoded: Mapping[str, Tensor]

    def __len__(self) -> int:
        return self.recipe.count

    def __getitem__(self, name: str) -> Tensor:
        return self.encoded[name]

    def truths(self) -> list[tuple]:
        return [self.recipe.sample(index) for index in range(len(self))]


def draw_clips(recipe: ClipRecipe | LongRecipe, autoencoder: nn.Module, vision: nn.Module, folder: Path) -> Clips:
    """The clips of a recipe, from `folder` as far as an earlier run has drawn them for these very encoders."""
    place = folder / place_of(recipe.kind, recipe, recipe.identity, autoencoder, vision)
    place.mkdir(parents=True, exist_ok=True)
    files = {start: place / f"{start:06}.npz" for start in range(0, recipe.count, CHUNK)}
    missing = [start for start, file in files.items() if not file.exists()]
    began = time.monotonic()
    for done, (start, (frames, others)) in enumerate(zip(missing, in_order(_draw, recipe, missing), strict=True), 1):
        latents = of_frames(encode, autoencoder, frames)
        arrays = {"latents": latents} | recipe.encode(frames, others, latents, autoencoder, vision)
        part = files[start].with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, motion=motion(frames), **{name: tensor.numpy() for name, tensor in arrays.items()})
        part.rename(files[start])
        left = (time.monotonic() - began) / done * (len(missing) - done)
        print(f"drawing clips: {done} of {len(missing)} files, {left:.0f} s left", flush=True)
    return Clips(recipe, **_read(files, recipe.count))


def _read(files: Mapping[int, Path], count: int) -> dict:
    whole: dict[str, np.ndarray] = {}
    for start, file in files.items():
        with np.load(file) as part:
            for name, rows in part.items():
                whole.setdefault(name, np.empty((count, *rows.shape[1:]), rows.dtype))
                whole[name][start : start + len(rows)] = rows
    encoded = {name: torch.from_numpy(rows) for name, rows in whole.items()}
    return {"latents": encoded.pop("latents"), "motion": encoded.pop("motion"), "encoded": encoded}


def _draw(recipe: ClipRecipe | LongRecipe, start: int) -> tuple[np.ndarray, np.ndarray]:
    """What `recipe.draw` gives of the clips of one file, in another process."""
    drawn = [recipe.draw(index) for index in range(start, min(start + CHUNK, recipe.count))]
    return np.stack([frames for frames, _ in drawn]), np.array([number for _, number in drawn])


def place_of(kind: str, recipe, settings: tuple, *networks: nn.Module) -> str:
    """A folder's name for what `networks` make of the clips of a recipe. settings: all else that decides it."""
    digest = hashlib.sha256(b"".join([repr(settings).encode(), *map(_digest, networks)])).hexdigest()
    return f"{kind}_{recipe.seed}_{recipe.count}_{digest[:8]}"


def motion(frames: np.ndarray) -> np.ndarray:
    """uint8 [clips, T, 16, 16] of uint8 [clips, T, 128, 128, 3]: the mean difference of a cell's pixels, each in the
    channel where it is largest, from the frame before or after, whichever is more."""
    apart = np.abs(frames[:, 1:].astype(np.int16) - frames[:, :-1]).max(-1)
    cells = apart.reshape(*apart.shape[:2], apart.shape[2] // CELL, CELL, apart.shape[3] // CELL, CELL)
    steps = cells.mean((3, 5)).astype(np.uint8)
    return np.maximum(np.pad(steps, ((0, 0), (1, 0), (0, 0), (0, 0))), np.pad(steps, ((0, 0), (0, 1), (0, 0), (0, 0))))


def _digest(network: nn.Module) -> bytes:
    sums = hashlib.sha256()
    for tensor in network.state_dict().values():
        sums.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return sums.digest()
