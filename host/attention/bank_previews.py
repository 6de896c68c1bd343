"""Small images, by which people recognize a character in a bank."""

from typing import Any

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from latent_preview import Latent2RGBPreviewer
from PIL import Image
from torch import Tensor

SIDE = 128  # pixels, at most


def preview(model: ModelPatcher, samples: Tensor) -> Tensor | None:
    """The host's fast preview of an image's samples [C, h, w], as uint8 [H, W, 3]; None where a model has none."""
    latents: Any = model.get_model_object("latent_format")
    factors = getattr(latents, "latent_rgb_factors", None)
    if factors is None:
        return None
    previewer = Latent2RGBPreviewer(factors, getattr(latents, "latent_rgb_factors_bias", None))
    image = previewer.decode_latent_to_preview(latents.process_in(samples.float().cpu()[None]))
    return _small(image)


def preview_of_image(image: Tensor) -> Tensor:
    """An image [H, W, 3] of 0 to 1 as a preview, uint8 [h, w, 3]."""
    return _small(Image.fromarray((image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()))


def _small(image: Image.Image) -> Tensor:
    image.thumbnail((SIDE, SIDE))
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy())
