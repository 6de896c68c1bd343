"""Image encoders of a configuration, and what video models read of one: all of its tokens, or its projection."""

import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
from torch import Tensor

from ...core.video.images import clip_pixels

GRAY = 0.5  # pixels of the uncond image


def vision_tokens(clip_vision, images: Tensor) -> Tensor:
    """[B, N, width]: all tokens of the last layer, before its norm and projection. images: [B, H, W, 3]."""
    return _features(clip_vision, images)[0].float().to(comfy.model_management.intermediate_device())


def anchor_embeds(clip_vision, images: Tensor) -> Tensor:
    """The image encoder's projection of anchor frames [N, H, W, 3], as it was trained to see them: [1, N, width]."""
    return _features(clip_vision, images)[2][None].float().to(comfy.model_management.intermediate_device())


def _features(clip_vision, images: Tensor) -> tuple:
    """(tokens of the last layer, tokens of an intermediate layer, projection, ...)"""
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    pixels = clip_pixels(
        images.to(clip_vision.load_device), clip_vision.image_size, clip_vision.image_mean, clip_vision.image_std
    )
    return clip_vision.model(pixel_values=pixels)


def from_config(config: dict) -> comfy.clip_vision.ClipVisionModel:
    """An encoder without its weights, of a configuration as the host's own JSON files state it.

    Through a file: ComfyUI before 0.24 takes no other form.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        return comfy.clip_vision.ClipVisionModel(str(path))
