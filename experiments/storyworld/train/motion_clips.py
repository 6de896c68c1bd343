"""Clips of the world as what decoders of image tokens learn from: latents, and what is seen in every frame."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from .autoencoder import encode_all
from .clips import RATES, ClipRecipe, draw_chunk, drawn, motion, of_frames, penultimate_tokens, place_of

DATA = ClipRecipe(seed=6000, count=2000, wide=0.25)


@dataclass(frozen=True)
class Motions:
    """Encoded clips. latents: float16 [count, T, 12, 16, 16]. motion: uint8 [count, T, 16, 16], of `clips_data.motion`.
    seen: float16 [count, T, N, width], the image tower's tokens behind its last layer but one."""

    recipe: ClipRecipe
    latents: Tensor
    motion: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return self.recipe.count


def draw_motions(recipe: ClipRecipe, autoencoder: nn.Module, vision: nn.Module, folder: Path) -> Motions:
    """The clips of a recipe, from `folder` as far as an earlier run has drawn them for these very encoders."""

    def encode(frames: np.ndarray, _) -> dict[str, np.ndarray]:
        latents, seen = of_frames(encode_all, autoencoder, frames), of_frames(penultimate_tokens, vision, frames)
        return {"latents": latents.numpy(), "motion": motion(frames), "seen": seen.numpy()}

    place = folder / place_of("motion", recipe, (asdict(recipe), RATES), autoencoder, vision)
    return Motions(recipe, **drawn(place, recipe, draw_chunk, encode))
