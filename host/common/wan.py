"""What a Wan model of the host is, which its class alone does not say."""

from typing import Any, cast

import comfy.model_base
from torch import Tensor, nn

# Noise levels below which the second expert of Wan 2.2 14B samples, as published.
IMAGE_TO_VIDEO_BOUNDARY, VACE_BOUNDARY = 0.9, 0.875


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


def expert_switch(sigmas: Tensor, step: int, boundary: float) -> int:
    """The step at which the low-noise model takes over, counted from 0.

    step: the user's; 0: where the noise falls below `boundary`. Raises ValueError where one of the two models would
    sample no step.
    """
    steps = len(sigmas) - 1
    switch = step or int((sigmas[:-1] >= boundary).sum())
    if 0 < switch < steps:
        return switch
    if step:
        raise ValueError(
            f"switch_step is {step}, and sigmas has {steps} step{'s' * (steps != 1)}, so low_noise_model would sample "
            "none. Set a smaller switch_step, or 0."
        )
    raise ValueError(
        f"sigmas goes from {float(sigmas[0]):.3g} to {float(sigmas[-1]):.3g} and both models need a step above and "
        f"below {boundary}, where low_noise_model takes over. Set switch_step, or use more steps."
    )
