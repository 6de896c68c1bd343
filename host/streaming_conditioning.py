"""What StreamingT2V and StreamingSVD are told of a chunk beside the prompt: the frames before it, and the anchor."""

import comfy.model_management
from torch import Tensor

from ..core.video.pictures import clip_pixels
from .modelscope_model import ANCHOR_EMBEDS, APM_STRENGTH, CAM_FRAMES, CAM_STRENGTH

GREY = 0.5  # the picture of those who see none


def anchor_embeds(clip_vision, pictures: Tensor) -> Tensor:
    """The image encoder's projection of anchor frames [N, H, W, 3], as it was trained to see them: [1, N, width]."""
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    pixels = clip_pixels(
        pictures.to(clip_vision.load_device), clip_vision.image_size, clip_vision.image_mean, clip_vision.image_std
    )
    embeds = clip_vision.model(pixel_values=pixels)[2]
    return embeds[None].float().to(comfy.model_management.intermediate_device())


def remember(
    conditioning: list,
    frames: Tensor | None,
    embeds: Tensor | None = None,
    cam_strength: float = 1.0,
    apm_strength: float = 1.0,
) -> list:
    """CONDITIONING that also tells of the frames before a chunk, [M, H, W, 3], and of the anchor, see `anchor_embeds`.

    Both halves of the guidance get the same frames; the negative's anchor is a picture of GREY. None: not told.
    """
    told = {} if frames is None else {CAM_FRAMES: frames, CAM_STRENGTH: cam_strength}
    if embeds is not None:
        told |= {ANCHOR_EMBEDS: embeds, APM_STRENGTH: apm_strength}
    return [[text, {**extras, **told}] for text, extras in conditioning]
