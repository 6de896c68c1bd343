"""Latents that differ from those of Stable Diffusion, as a checkpoint's metadata describe them."""

import comfy.latent_formats

from ...core.weights.refusal import Unreadable
from ...core.weights.stated import Each, Fields, Real

MOST_CHANNELS = 1024
COLORS = Each(Each(Real(-100, 100), 3, 3, as_list=True), 2, MOST_CHANNELS + 1, as_list=True)
LATENTS = Fields({"spread": Real(0.001, 1000), "rgb": COLORS}, ("spread", "rgb"))  # in the metadata


class ScaledLatents(comfy.latent_formats.LatentFormat):
    """Latents that are divided by `spread`, their standard deviation. rgb: the preview's color of each channel, and
    last its bias."""

    def __init__(self, spread: float, rgb: list[list[float]]):
        self.scale_factor = 1 / spread
        *self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb
        self.latent_channels = len(self.latent_rgb_factors)


def latent_format(described: dict | None, channels: int) -> ScaledLatents | None:
    """The latents that a file describes, or None if it describes none. channels: those that its UNet reads.

    Raises Unreadable for latents of another number of channels.
    """
    if not described:
        return None
    latents = ScaledLatents(**described)
    if latents.latent_channels != channels:
        raise Unreadable(
            f"describes latents of {latents.latent_channels} channels, and its UNet reads {channels}; the same number "
            "was expected"
        )
    return latents
