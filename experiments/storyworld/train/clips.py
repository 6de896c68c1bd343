"""Clips of the world as what a video model learns from: latents, the image tower's tokens, and where something moves.

Drawn by all processors and encoded once, in files of a few clips each, so that a run that was stopped goes on drawing
where it was.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from storyreel.core.storyworld import world
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn

from .autoencoder import encode_all
from .clip import normalise
from .drawing import Draw, in_order
from .trainer import autocast, device

CHUNK = 64  # clips of a file
FPS = 8  # frames a second at the usual tempo
RATES = range(6, 11)  # frames a second that clips are told to have: fewer are more motion from frame to frame
CELL = 8  # pixels a side to a latent


@dataclass(frozen=True)
class ClipRecipe:
    """Which clips: `count` of them from `seed`. wide: the share that cross the picture."""

    seed: int
    count: int
    frames: int = 16
    wide: float = 0.15

    def sample(self, index: int) -> tuple[Clip, int]:
        """Clip number `index`, and its frames a second. Start, look and place say nothing of the action."""
        rate = Random(f"rate/{self.seed}/{index}").choice(RATES)
        return replace(world.sample_clip(self.seed, index, wide=self.wide), tempo=FPS / rate), rate


@dataclass(frozen=True)
class Clips:
    """Encoded clips. latents: float16 [count, T, 12, 16, 16]. motion: uint8 [count, T, 16, 16], how much each cell
    differs from a neighbouring frame's. tokens: float16 [count, 2, N, width], the image tower's of the first frame and
    of any other."""

    recipe: ClipRecipe
    latents: Tensor
    motion: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return self.recipe.count

    def truth(self, index: int) -> tuple[Clip, int]:
        return self.recipe.sample(index)


def draw_clips(recipe: ClipRecipe, autoencoder: nn.Module, vision: nn.Module, folder: Path) -> Clips:
    """The clips of a recipe, from `folder` as far as an earlier run has drawn them for these very encoders."""

    def encode(frames: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
        latents = of_frames(encode_all, autoencoder, frames)
        seen = np.stack([frames[:, 0], frames[np.arange(len(frames)), others]], 1)
        tokens = of_frames(vision_tokens, vision, seen)
        return {"latents": latents.numpy(), "motion": motion(frames), "tokens": tokens.numpy()}

    place = folder / place_of("video", recipe, (asdict(recipe), RATES), autoencoder, vision)
    return Clips(recipe, **drawn(place, recipe, draw_chunk, encode))


def place_of(kind: str, recipe, told: tuple, *networks: nn.Module) -> str:
    """A folder's name for what `networks` make of the clips of a recipe. told: all that says which clips those are."""
    told = b"".join([repr(told).encode(), *map(_digest, networks)])
    return f"{kind}_{recipe.seed}_{recipe.count}_{hashlib.sha256(told).hexdigest()[:8]}"


def drawn(place: Path, recipe, draw: Draw, encode: Callable[..., dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """{name: one row a clip}, from the files in `place`, of which those that are missing are made.

    draw(recipe, start): arrays of the clips of one file, in another process. encode: makes of them what is kept.
    """
    place.mkdir(parents=True, exist_ok=True)
    files = {start: place / f"{start:06}.npz" for start in range(0, recipe.count, CHUNK)}
    missing = [start for start, file in files.items() if not file.exists()]
    if missing:
        _encode(recipe, missing, files, draw, encode)
    whole: dict[str, np.ndarray] = {}
    for start, file in files.items():
        with np.load(file) as part:
            for name, rows in part.items():
                whole.setdefault(name, np.empty((recipe.count, *rows.shape[1:]), rows.dtype))
                whole[name][start : start + len(rows)] = rows
    return {name: torch.from_numpy(rows) for name, rows in whole.items()}


def _encode(recipe, starts: list[int], files: dict[int, Path], draw: Draw, encode) -> None:
    began = time.monotonic()
    for done, (start, arrays) in enumerate(zip(starts, in_order(draw, recipe, starts), strict=True), 1):
        part = files[start].with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **encode(*arrays))
        part.rename(files[start])
        left = (time.monotonic() - began) / done * (len(starts) - done)
        print(f"\rdrawing clips: {done} of {len(starts)} files, {left:.0f} s left   ", end="", flush=True)
    print()


def draw_chunk(recipe: ClipRecipe, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [clips, T, 128, 128, 3], and for each clip the number of a frame that is not the first."""
    clips = range(start, min(start + CHUNK, recipe.count))
    frames = [world.render_clip(recipe.sample(index)[0], recipe.frames).image for index in clips]
    others = [Random(f"other/{recipe.seed}/{index}").randrange(1, recipe.frames) for index in clips]
    return np.stack(frames), np.array(others)


def of_frames(encode: Callable[[nn.Module, np.ndarray], Tensor], network: nn.Module, clips: np.ndarray) -> Tensor:
    """What `encode` makes of every frame of uint8 clips [count, T, H, W, 3]: [count, T, ...]."""
    return encode(network, clips.reshape(-1, *clips.shape[2:])).unflatten(0, clips.shape[:2])


def vision_tokens(vision: nn.Module, images: np.ndarray) -> Tensor:
    """float16 [count, N, width] of uint8 pictures: all tokens of the last layer, before its norm."""
    return _look(vision, images, 0)


def penultimate_tokens(vision: nn.Module, images: np.ndarray) -> Tensor:
    """float16 [count, N, width] of uint8 pictures: all tokens of the last layer but one."""
    return _look(vision, images, 1)


def vision_embeds(vision: nn.Module, images: np.ndarray) -> Tensor:
    """float16 [count, width] of uint8 pictures: the projection."""
    return _look(vision, images, 2)


@torch.no_grad()
def _look(vision: nn.Module, images: np.ndarray, output: int, batch: int = 64) -> Tensor:
    parts = []
    for start in range(0, len(images), batch):
        with autocast(device()):
            seen = vision(pixel_values=normalise(images[start : start + batch]), intermediate_output=-2)
            parts.append(seen[output].half().cpu())
    return torch.cat(parts)


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
