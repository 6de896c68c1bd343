"""What the image models train on: random batches of encoded pictures with captions of what they show.

The loss counts heroes more than what is behind them.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import torch
from storyreel.core.storyworld import captions
from torch import Tensor

from . import clip
from .pictures import Recipe
from .tokenizer import with_strangers
from .trainer import device
from .workspace import Workspace

DROP_TEXT = 0.1
HERO_WEIGHT = 2.0


def image_recipe(work: Workspace) -> Recipe:
    """Which pictures the image models of a run train on."""
    recipe = work.recipe(clip.DATA)
    return recipe if work.twins else replace(recipe, twins=0.0, triplets=0.0)


class ImageBatches:
    """latents: of the pictures [count, 12, 16, 16]. read: encodes captions. size: of a batch."""

    def __init__(self, pictures, latents: Tensor, read: Callable[[list[str]], Tensor], size: int):
        self.latents, self.read, self.size = latents, read, size
        self.heroes = np.stack([_shrink(mask) for mask in pictures.heroes])
        self.truths = [pictures.truth(index) for index in range(len(pictures))]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(latents [B, 12, 16, 16], encoded captions [B, 77, width], weights of the loss [B, 1, 16, 16])"""
        picks = torch.randint(len(self.truths), (self.size,), generator=generator).tolist()
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [random_caption(rng, self.truths[pick]) for pick in picks]
        weight = 1 + (HERO_WEIGHT - 1) * torch.from_numpy(self.heroes[picks])[:, None]
        return self.latents[picks].float(), self.read(texts), weight.to(device())


def weighted_error(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The mean square."""
    return ((predicted.float() - target).square() * weight).mean()


def random_caption(rng: Random, picture) -> str:
    """Of what a picture shows, with a random choice of what it leaves open; sometimes no text at all."""
    if rng.random() < DROP_TEXT:
        return ""
    return with_strangers(rng, captions.caption(picture, captions.choose_named(rng, picture)))


def _shrink(mask: np.ndarray) -> np.ndarray:
    """How much of a hero each latent pixel shows: uint8 [128, 128] -> float32 [16, 16] from 0 to 1."""
    return mask.reshape(16, 8, 16, 8).mean((1, 3), dtype=np.float32) / 255
