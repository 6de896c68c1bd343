"""The included demo model's video UNet: DynamiCrafter with a keep channel, see `core.storyworld.keeping`."""

from typing import Any

import torch
from einops import rearrange

from ..core.networks.dynamicrafter.config import UNetConfig
from ..core.storyworld.keeping import keep_still, still_clip
from .dynamicrafter.model import DynamiCrafter, RescaledSampling, register_variant


class KeepSampling(RescaledSampling):
    """The keep channel passes unchanged."""

    def calculate_denoised(self, sigma, model_output, model_input):
        output, keep = model_output.tensor_split([model_input.shape[1]], dim=1)
        return torch.cat([super().calculate_denoised(sigma, output, model_input), keep], 1)


class StoryworldVideo(DynamiCrafter):
    sampling_class = KeepSampling

    def _apply_model(self, x, t, c_concat: Any = None, c_crossattn: Any = None, *args, **kwargs):
        denoised = super()._apply_model(x, t, c_concat, c_crossattn, *args, **kwargs)
        clips = len(c_crossattn)
        clip = rearrange(denoised, "(b t) c h w -> b c t h w", b=clips)
        image = rearrange(c_concat.to(denoised), "(b t) c h w -> b c t h w", b=clips)
        clean, keep = clip.tensor_split([x.shape[1]], dim=1)
        return rearrange(keep_still(clean, still_clip(image), keep), "b c t h w -> (b t) c h w")


def has_keep_channel(sizes: UNetConfig) -> bool:
    return 2 * sizes.out_channels > sizes.in_channels


def register() -> None:
    register_variant(has_keep_channel, StoryworldVideo)
