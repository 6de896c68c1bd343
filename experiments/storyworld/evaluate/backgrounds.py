"""How clean the backgrounds are: colours that a scene never has, where a hero seldom stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..train import pictures as data

RECIPE = data.Recipe(seed=3000, count=768, twins=0.0, triplets=0.0)
LEVELS = 32  # of a colour channel
ENOUGH = 3  # so many pixels of a colour in the drawn pictures of a scene make it one of the scene's
TOP, SIDE = 28, 10  # pixels


def border() -> np.ndarray:
    """bool [128, 128]: the top of a picture and its sides."""
    here = np.zeros((data.world.SIZE, data.world.SIZE), bool)
    here[:TOP] = here[:, :SIDE] = here[:, -SIDE:] = True
    return here


class Backgrounds:
    """The colours of every scene, learned from drawn pictures as the autoencoder gives them back."""

    def __init__(self, folder: Path, reconstruct: Callable[[np.ndarray], np.ndarray]):
        pictures = data.draw(RECIPE, folder)
        self._border = border()
        colours: dict[str, torch.Tensor] = {}
        for index in range(len(pictures)):
            scene = pictures.truth(index).scene
            seen = reconstruct(pictures.images[index][None])[0]
            free = self._border & (pictures.heroes[index] == 0)
            colours.setdefault(scene, torch.zeros(LEVELS, LEVELS, LEVELS)).index_put_(
                _cells(seen[free]), torch.ones(()), accumulate=True
            )
        # A colour next to one of the scene's is one of them, too.
        self._known = {
            scene: F.max_pool3d((count >= ENOUGH)[None, None].float(), 3, 1, 1)[0, 0].bool()
            for scene, count in colours.items()
        }

    def stray(self, image: np.ndarray, scene: str) -> float:
        """Share of the border's pixels in a colour that `scene` does not have. image: uint8 [128, 128, 3]."""
        return 1 - self._known[scene][_cells(image[self._border])].float().mean().item()


def _cells(pixels: np.ndarray) -> tuple[torch.Tensor, ...]:
    """uint8 [n, 3] -> the indices of their colours."""
    return tuple(torch.from_numpy(pixels.astype(np.int64) * LEVELS // 256).T)
