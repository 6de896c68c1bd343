"""What StreamingT2V and StreamingSVD are told of a chunk beside the prompt: the frames before it, and the anchor."""

from torch import Tensor

from .modelscope import ANCHOR_EMBEDS, APM_STRENGTH, CAM_FRAMES, CAM_STRENGTH


def remember(
    conditioning: list,
    frames: Tensor | None,
    embeds: Tensor | None = None,
    cam_strength: float = 1.0,
    apm_strength: float = 1.0,
) -> list:
    """CONDITIONING that also tells of the frames before a chunk, [M, H, W, 3], and of the anchor.

    embeds: of the anchor, by `vision.anchor_embeds`. None: not told. Both halves of the guidance get the same frames;
    the negative's anchor is a picture of `vision.GREY`.
    """
    told = {} if frames is None else {CAM_FRAMES: frames, CAM_STRENGTH: cam_strength}
    if embeds is not None:
        told |= {ANCHOR_EMBEDS: embeds, APM_STRENGTH: apm_strength}
    return [[text, {**extras, **told}] for text, extras in conditioning]
