"""The empty latent of a story: one sample a frame, each with the number of the noise it starts from."""

import comfy.model_management
import comfy.supported_models
import torch

from ...core.story.frames import Frames, mark_frames

MIN_SIZE = 64
MAX_SIZE = 16384
PLAIN_SIZE = 512  # of SD1.5, and where no model says another
TRAINED_SIZES = (  # sides in pixels that the published models of a family were trained at
    (comfy.supported_models.SD15, PLAIN_SIZE),
    (comfy.supported_models.SD20, 768),
    (comfy.supported_models.SDXL, 1024),
    (comfy.supported_models.QwenImage, 1328),
)
DRAWN_AT_ONCE = 16
SCALE = 8  # pixels a latent position, for the VAEs of SD1.5, SD2 and SDXL; a sampler rescales empty latents for others


def trained_size(model) -> int:
    """Sides in pixels of the images that a MODEL's family was trained on; None: of no model."""
    if model is None:
        return PLAIN_SIZE
    config = model.model.model_config
    own = getattr(type(config), "trained_size", None)  # of the class: the host logs what a config is asked for in vain
    return own or next((size for family, size in TRAINED_SIZES if isinstance(config, family)), 1024)


def check_size(**sizes: int | None) -> None:
    """Raise ValueError for every size that is no multiple of SCALE in MIN_SIZE to MAX_SIZE; None is not checked."""
    wrong = [
        f"{name} is {size}; a multiple of {SCALE} from {MIN_SIZE} to {MAX_SIZE} is expected"
        for name, size in sizes.items()
        if size is not None and (size % SCALE or not MIN_SIZE <= size <= MAX_SIZE)
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def empty_story_latent(noise_indices: list[int], width: int, height: int) -> dict:
    """LATENT of zeros [F, 4, height / 8, width / 8]; frames of equal number in `noise_indices` get equal noise.

    The samples know which frames they are, see `core.story.frames`: noise that several share does not tell.
    """
    check_size(width=width, height=height)
    count = len(noise_indices)
    samples = torch.zeros(
        (count, 4, height // SCALE, width // SCALE),
        device=comfy.model_management.intermediate_device(),
        dtype=comfy.model_management.intermediate_dtype(),
    )
    latent = {"samples": mark_frames(samples, Frames.all(count)), "downscale_ratio_spacial": SCALE}
    # Without batch_index, which takes other packs' seed modes out of use, the host draws the noise of a whole batch at
    # once. torch draws 16 values at a time, so only then are they those of image after image.
    if noise_indices != list(range(count)) or samples[0].numel() % DRAWN_AT_ONCE:
        latent["batch_index"] = noise_indices
    return latent
