"""The inputs of StreamingT2V and StreamingSVD besides the prompt: the frames before a chunk, and the anchor."""

from torch import Tensor

from .modelscope import ANCHOR_EMBEDS, APM_STRENGTH, CAM_FRAMES, CAM_STRENGTH


def set_cam_apm(
    conditioning: list,
    frames: Tensor | None,
    embeds: Tensor | None = None,
    cam_strength: float = 1.0,
    apm_strength: float = 1.0,
) -> list:
    """CONDITIONING with the frames before a chunk, [M, H, W, 3], for CAM and the anchor for APM.

    embeds: of the anchor, from `clip_vision.anchor_embeds`; None: no APM. Cond and uncond get the same frames; the
    anchor of uncond is a gray image.
    """
    values = {} if frames is None else {CAM_FRAMES: frames, CAM_STRENGTH: cam_strength}
    if embeds is not None:
        values |= {ANCHOR_EMBEDS: embeds, APM_STRENGTH: apm_strength}
    return [[text, {**extras, **values}] for text, extras in conditioning]
