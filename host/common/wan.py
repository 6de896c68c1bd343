"""What a Wan model of the host is, which its class alone does not say."""

from typing import Any, cast

import comfy.model_base
from torch import nn


def is_image_to_video(wan: comfy.model_base.BaseModel) -> bool:
    """Whether it reads image latents and a mask of 4 channels beside its own latents, the only difference between Wan
    2.2's image-to-video and text-to-video."""
    channels = wan.latent_format.latent_channels
    embedding = cast(nn.Conv3d, wan.diffusion_model.patch_embedding)
    return embedding.weight.shape[1] == 2 * channels + 4


def reads_clip_vision(wan: comfy.model_base.BaseModel) -> bool:
    """Whether it reads an image encoder's tokens, as Wan 2.1 does."""
    return wan.diffusion_model.img_emb is not None


def knows_last_frames(wan: comfy.model_base.BaseModel) -> bool:
    """Whether it was trained to end at an image: of models with an image encoder, those with a place for two images."""
    encoder = cast(Any, wan.diffusion_model.img_emb)
    return encoder is None or encoder.emb_pos is not None
