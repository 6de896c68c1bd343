"""The keep channel of the included demo model's video UNet: one more output channel than DynamiCrafter has.

A small network cannot carry the image's detail through its middle layers, and need not: the image's latents are part of
its input. For each latent pixel, the keep channel predicts how far the clean latent equals that of the image.
"""

from torch import Tensor


def still_clip(image_latents: Tensor) -> Tensor:
    """The clip without motion. image_latents: [B, channels, T, h, w]; frames that are all zeros, with no image, get the
    first frame's."""
    has_image = (image_latents != 0).any(1, keepdim=True).flatten(3).any(3)[..., None, None]
    return image_latents.where(has_image, image_latents[:, :, :1])


def keep_still(clean: Tensor, still: Tensor, keep: Tensor) -> Tensor:
    """Clean latents [B, channels, T, h, w], interpolated to the still clip by the keep channel, [B, 1, T, h, w]."""
    return clean.lerp(still, keep.sigmoid())
