"""The conditioning of a DynamiCrafter model: text, image tokens, latents of the given images, frame rate."""

import torch
from torch import Tensor

from ...core.video.images import fit
from ..common import messages
from ..common.clip_vision import GRAY, vision_tokens
from ..common.conditioning import pick_row
from .model import CONCAT_LATENTS, FS, MODE, TEXT_TOKENS, VISION_TOKENS

MODES = ("animate", "interpolate", "loop")
TRAINED_FRAMES = 16


def condition(
    positive: list,
    negative: list,
    clip_vision,
    vae,
    start: Tensor,
    end: Tensor | None,
    mode: str,
    width: int,
    height: int,
    frames: int,
    fs: int | None,
) -> tuple[list, list, list, dict]:
    """(positive, image only, negative, empty LATENT) of a clip.

    start, end: [1, H, W, 3]. fs: None = the checkpoint's default.
    "image only" is the negative prompt with the image, for separate guidance scales of text and image.

    Raises ValueError for inputs that do not go together.
    """
    _check(clip_vision, vae, start, end, mode, frames)
    positive, negative = _read(positive, "positive"), _read(negative, "negative")
    image = fit(start, width, height)
    tokens = vision_tokens(clip_vision, torch.cat([image, torch.full_like(image, GRAY)]))
    latents = concat_latents(vae, image, end if end is None else fit(end, width, height), mode, frames)

    def add_image(conditioning: list, tokens: Tensor) -> list:
        shared = {VISION_TOKENS: tokens, CONCAT_LATENTS: latents, FS: fs, MODE: mode}
        return [[text, {**extras, **shared}] for text, extras in conditioning]

    image_tokens, gray_tokens = tokens[:1], tokens[1:]
    empty = torch.zeros_like(latents)
    return (
        add_image(positive, image_tokens),
        add_image(negative, image_tokens),
        add_image(negative, gray_tokens),
        {"samples": empty},
    )


def describe_frames(frames: int) -> str | None:
    """A message on a number of frames that the models were not trained on."""
    if frames == TRAINED_FRAMES:
        return None
    return (
        f"{frames} frames: the published models were trained on {TRAINED_FRAMES} and work best with {TRAINED_FRAMES}."
    )


def concat_latents(vae, start: Tensor, end: Tensor | None, mode: str, frames: int) -> Tensor:
    """[T, channels, h, w]: the start image in every frame, or start and end image at the ends and zeros between."""
    first = vae.encode(start)
    if mode == "animate":
        return first.expand(frames, -1, -1, -1).clone()
    latents = torch.zeros(frames, *first.shape[1:])
    latents[0] = first[0]
    latents[-1] = (first if mode == "loop" else vae.encode(end))[0]
    return latents


def _read(conditioning: list, name: str) -> list:
    """The text tokens of one prompt; the model would read further tokens as image tokens."""
    for text, _ in conditioning:
        if len(text) > 1 and not torch.equal(text, text[:1].expand_as(text)):
            raise ValueError(
                f"{name} contains {len(text)} prompts, and a clip uses 1. Split them with Keyframe Pairs, or "
                "connect all of them to Animate Story."
            )
        if text.shape[1] > TEXT_TOKENS:
            messages.warn(
                f"the {name} prompt, or another of its story, is longer than {TEXT_TOKENS} tokens (about 75 "
                "words). The rest is ignored."
            )
    return [[text[:, :TEXT_TOKENS], extras] for text, extras in pick_row(conditioning, 0)]


def check_shot(model, clip_vision, vae, mode: str, width: int, height: int, frames: int) -> None:
    """Raise ValueError for what `condition` or a DynamiCrafter model would reject, before there is an image."""
    _check_parts(clip_vision, vae)
    model.check_mode(mode)
    model.check_channels(vae.latent_channels)
    factor = 8 * model.factor
    if width % factor or height % factor:
        raise ValueError(f"The video is {width} x {height} pixels. Width and height must be multiples of {factor}.")
    _check_ends(mode, frames)


def _check_ends(mode: str, frames: int) -> None:
    if mode != "animate" and frames < 3:
        raise ValueError(f"{mode} needs at least 3 frames; frames is {frames}.")


def _check_parts(clip_vision, vae) -> None:
    sources = {"clip_vision": (clip_vision, "Load CLIP Vision and CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")}
    sources["vae"] = (vae, "Load VAE and vae-ft-mse-840000-ema-pruned.safetensors")
    for name, (value, source) in sources.items():
        if value is None:
            raise ValueError(f"{name} is empty and the checkpoint contains none. Use {source}.")


def _check(clip_vision, vae, start: Tensor, end: Tensor | None, mode: str, frames: int) -> None:
    _check_parts(clip_vision, vae)
    if mode == "interpolate" and end is None:
        raise ValueError("interpolate needs end_image, but it is empty.")
    if mode != "interpolate" and end is not None:
        raise ValueError(f"{mode} does not use end_image. Choose interpolate, or disconnect it.")
    for name, images in (("start_image", start), ("end_image", end)):
        if images is not None and len(images) != 1:
            raise ValueError(f"{name} contains {len(images)} images; 1 is expected.")
    if end is not None and start.shape != end.shape:
        sizes = [f"{image.shape[2]} x {image.shape[1]}" for image in (start, end)]
        raise ValueError(
            f"start_image is {sizes[0]} and end_image is {sizes[1]}. Resize one of them, with Upscale Image."
        )
    _check_ends(mode, frames)
