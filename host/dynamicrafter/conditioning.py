"""What a DynamiCrafter model is told: text, the picture's tokens, latents of the given frames, frame rate."""

import torch
from torch import Tensor

from ...core.video.images import fit
from ..common import messages
from ..common.clip_vision import GREY, vision_tokens
from ..common.conditioning import pick_row
from .model import CONCAT_LATENTS, FS, MODE, TEXT_TOKENS, VISION_TOKENS

NODE = "DynamiCrafter Conditioning"
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

    start, end: [1, H, W, 3]. fs: None = what the checkpoint was trained on most.
    "image only" is the negative's text with the picture, for guidance by text and picture apart.

    Raises ValueError for inputs that do not go together.
    """
    _check(clip_vision, vae, start, end, mode, frames)
    positive, negative = (_read(half, name) for half, name in ((positive, "positive"), (negative, "negative")))
    given = fit(start, width, height)
    tokens = vision_tokens(clip_vision, torch.cat([given, torch.full_like(given, GREY)]))
    latents = concat_latents(vae, given, end if end is None else fit(end, width, height), mode, frames)

    def tell(conditioning: list, seen: Tensor) -> list:
        shared = {VISION_TOKENS: seen, CONCAT_LATENTS: latents, FS: fs, MODE: mode}
        return [[text, {**extras, **shared}] for text, extras in conditioning]

    picture, nothing = tokens[:1], tokens[1:]
    empty = torch.zeros_like(latents)
    return (
        tell(positive, picture),
        tell(negative, picture),
        tell(negative, nothing),
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
    """[T, channels, h, w]: the start in every frame, or start and end at the ends and zeros, no picture, between."""
    first = vae.encode(start)
    if mode == "animate":
        return first.expand(frames, -1, -1, -1).clone()
    latents = torch.zeros(frames, *first.shape[1:])
    latents[0] = first[0]
    latents[-1] = (first if mode == "loop" else vae.encode(end))[0]
    return latents


def _read(conditioning: list, name: str) -> list:
    """Of one prompt, what the model reads as text; it would take the rest for a picture's tokens."""
    for text, _ in conditioning:
        if len(text) > 1 and not torch.equal(text, text[:1].expand_as(text)):
            raise ValueError(
                f"{NODE}: {name} holds {len(text)} prompts, and one clip has 1: take them one by one with Keyframe "
                "Pairs, or give all of them to Animate Story."
            )
        if text.shape[1] > TEXT_TOKENS:
            messages.warn(
                f"{NODE}: the {name} prompt, or another of its story, is longer than the {TEXT_TOKENS} tokens, about "
                "75 words, that the model reads; what is behind them was cut."
            )
    return [[text[:, :TEXT_TOKENS], extras] for text, extras in pick_row(conditioning, 0)]


def check_shot(model, clip_vision, vae, mode: str, width: int, height: int, frames: int) -> None:
    """Raise ValueError for what `condition` or a DynamiCrafter model would refuse, before there is a picture."""
    _check_parts(clip_vision, vae)
    model.check_mode(mode)
    model.check_channels(vae.latent_channels)
    factor = 8 * model.factor
    if width % factor or height % factor:
        raise ValueError(f"The video is {width} x {height} pixels; sides that are multiples of {factor} are expected.")
    _check_ends(mode, frames)


def _check_ends(mode: str, frames: int) -> None:
    if mode != "animate" and frames < 3:
        raise ValueError(f"{NODE}: {mode} over {frames} frames leaves none between the ends; at least 3 are expected.")


def _check_parts(clip_vision, vae) -> None:
    missing = {"clip_vision": (clip_vision, "Load CLIP Vision and CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")}
    missing["vae"] = (vae, "Load VAE and vae-ft-mse-840000-ema-pruned.safetensors")
    for name, (value, where) in missing.items():
        if value is None:
            raise ValueError(f"{NODE}: {name} is empty, the checkpoint carries none; use {where}.")


def _check(clip_vision, vae, start: Tensor, end: Tensor | None, mode: str, frames: int) -> None:
    _check_parts(clip_vision, vae)
    if mode == "interpolate" and end is None:
        raise ValueError(f"{NODE}: interpolate needs end_image, and it is empty.")
    if mode != "interpolate" and end is not None:
        raise ValueError(f"{NODE}: end_image is given, and {mode} has no end picture; choose interpolate.")
    for name, pictures in (("start_image", start), ("end_image", end)):
        if pictures is not None and len(pictures) != 1:
            raise ValueError(f"{NODE}: {name} holds {len(pictures)} pictures; 1 is expected.")
    if end is not None and start.shape != end.shape:
        sizes = [f"{picture.shape[2]} x {picture.shape[1]}" for picture in (start, end)]
        raise ValueError(
            f"{NODE}: start_image is {sizes[0]} and end_image {sizes[1]}; bring both to one size, with Upscale Image."
        )
    _check_ends(mode, frames)
