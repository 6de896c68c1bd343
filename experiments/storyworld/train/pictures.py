"""Pictures of the world in memory-mapped files, drawn once by all processors, and batches of them."""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
from storyreel.core.storyworld import world
from storyreel.core.storyworld.attributes import Clip, Picture

from .drawing import in_order

CHUNK = 256
CLIP_FRAMES = 24


@dataclass(frozen=True)
class Recipe:
    """Which pictures: `count` of them from `seed`. clips: the share that are single frames of clips, for an autoencoder
    that must know every pose; their truth is not a picture's, so they have none."""

    seed: int
    count: int
    twins: float = 0.3
    triplets: float = 0.05
    clips: float = 0.0
    least: ClassVar[int] = 32  # pictures of a tried-out stage

    @property
    def name(self) -> str:
        return f"pictures_{self.seed}_{self.count}_{self.twins}_{self.triplets}_{self.clips}"

    def sample(self, index: int) -> tuple[Picture, int]:
        """Picture number `index`, or a clip and the number of its frame."""
        rng = Random(f"recipe/{self.seed}/{index}")
        if rng.random() < self.clips:
            return world.sample_clip(self.seed, index, self.twins / 2, 0.0), rng.randrange(CLIP_FRAMES)
        return world.sample_picture(self.seed, index, self.twins, self.triplets), 0


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures. images: uint8 [count, 128, 128, 3]. heroes: uint8 [count, 128, 128], 255 where a hero is seen."""

    recipe: Recipe
    images: np.ndarray
    heroes: np.ndarray

    def __len__(self) -> int:
        return self.recipe.count

    def truth(self, index: int) -> Picture:
        return self.recipe.sample(index)[0]


def draw(recipe: Recipe, folder: Path) -> Pictures:
    """The pictures of a recipe, from `folder` where an earlier run has drawn them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{recipe.name}_{part}.npy" for part in ("images", "heroes")]
    if not all(path.exists() for path in paths):
        _draw_all(recipe, paths)
    return Pictures(recipe, *(np.load(path, mmap_mode="r") for path in paths))


def _draw_all(recipe: Recipe, paths: list[Path]) -> None:
    shapes = (recipe.count, world.SIZE, world.SIZE, 3), (recipe.count, world.SIZE, world.SIZE)
    unfinished = [path.with_suffix(".part") for path in paths]
    arrays = [
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        for path, shape in zip(unfinished, shapes, strict=True)
    ]
    started = time.monotonic()
    starts = range(0, recipe.count, CHUNK)
    for start, (images, heroes) in zip(starts, in_order(_draw_chunk, recipe, starts), strict=True):
        arrays[0][start : start + len(images)], arrays[1][start : start + len(images)] = images, heroes
        done = start + len(images)
        left = (time.monotonic() - started) / done * (recipe.count - done)
        print(f"\rdrawing pictures: {done} of {recipe.count}, {left:.0f} s left   ", end="", flush=True)
    print()
    for array, part, path in zip(arrays, unfinished, paths, strict=True):
        array.flush()
        part.rename(path)


def _draw_chunk(recipe: Recipe, start: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = []
    for index in range(start, min(start + CHUNK, recipe.count)):
        sampled, frame = recipe.sample(index)
        if isinstance(sampled, Clip):
            rendered = world.render_clip(sampled, 1, first=frame)
            drawn.append((rendered.image[0], rendered.masks[0].max(0)))
        else:
            rendered = world.render_picture(sampled)
            drawn.append((rendered.image, rendered.masks.max(0)))
    return tuple(np.stack(arrays) for arrays in zip(*drawn, strict=True))
