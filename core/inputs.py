"""Values as they come by links: brought to the one form that every node expects, or refused in one sentence.

The host checks what is typed into a widget. What comes by a link it does not check: a number of any size, images of any
depth, a tensor with NaN. Every function here takes the input's name, for the sentence, and raises ValueError.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .text import encodable


def read_number(name: str, value, whole: bool, least: float | None, most: float | None) -> int | float:
    """An int, or a float where not `whole`, from `least` to `most`; None is no bound."""
    kind: type[Any] = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"{name} is {shown(value)}; a {'whole ' if whole else ''}number is expected.")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; a number is expected.")
    if (least is not None and value < least) or (most is not None and value > most):
        if least is not None and most is not None:
            bounds = f"{least} to {most}"
        else:
            bounds = f"at least {least}" if most is None else f"at most {most}"
        raise ValueError(f"{name} is {value}; {bounds} is expected.")
    return int(value) if whole else float(value)


def read_choice(name: str, value, options: Sequence) -> Any:
    """One of `options`."""
    if not any(type(value) is type(option) and value == option for option in options):
        names = (name if len(name) <= 30 else f"{name[:27]}..." for name in map(str, options[:8]))
        listed = ", ".join(names) + (", ..." if len(options) > 8 else "")
        raise ValueError(f"{name} is {shown(value)}; one of {listed} is expected.")
    return value


def read_switch(name: str, value) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; true or false is expected.")
    return value


def read_text(name: str, value) -> str:
    """A text that can be written anywhere, see `encodable`."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}; a text is expected.")
    return encodable(value)


def read_images(name: str, images) -> Tensor:
    """IMAGE as float32 [B, H, W, 3], from 0 to 1.

    Any float and uint8 (0 to 255) are taken. One channel is gray. Of four the last one, alpha, is dropped, as in the
    host's VAE Encode.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name} is {shown(images)}; images [count, height, width, 1, 3 or 4] are expected.")
    if not images.numel():
        raise ValueError(f"{name} holds no images, but {_shape(images)}; at least 1 is expected.")
    if images.dtype == torch.uint8:
        images = images.float() / 255
    elif not images.is_floating_point():
        raise ValueError(f"{name} holds numbers of the format {images.dtype}; images from 0 to 1 are expected.")
    if images.shape[-1] == 4:
        images = images[..., :3]
    images = images.float()
    check_finite(name, images)
    return images if images.shape[-1] == 3 else images.repeat(1, 1, 1, 3)


def read_masks(name: str, masks) -> Tensor:
    """MASK as float32 [B, H, W]. [H, W] and [B, 1, H, W] are taken as the host's own mask nodes take them."""
    if not isinstance(masks, Tensor) or masks.ndim not in (2, 3, 4) or not masks.numel():
        raise ValueError(f"{name} is {shown(masks)}; masks [count, height, width] are expected.")
    masks = masks.reshape(-1, *masks.shape[-2:]).float()
    check_finite(name, masks)
    return masks


def read_latent(name: str, latent) -> dict:
    """LATENT whose samples hold numbers."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if samples is None:
        raise ValueError(f"{name} is {shown(latent)}; a LATENT is expected.")
    for part in getattr(samples, "tensors", [samples]):  # a nested one holds video and sound
        if not part.numel():
            raise ValueError(f"{name} holds no samples, but {_shape(part)}; at least 1 is expected.")
        check_finite(name, part)
    return latent


def read_conditioning(name: str, conditioning) -> list:
    """CONDITIONING whose tensors hold numbers."""
    if not isinstance(conditioning, list) or not conditioning:
        raise ValueError(f"{name} is {shown(conditioning)}; a CONDITIONING is expected.")
    for cond, extras in conditioning:
        for value in (cond, *extras.values()):
            if isinstance(value, Tensor):
                check_finite(name, value)
    return conditioning


def read_sigmas(name: str, sigmas) -> Tensor:
    """SIGMAS of one step or more."""
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1:
        raise ValueError(f"{name} is {shown(sigmas)}; SIGMAS are expected.")
    if len(sigmas) < 2:
        raise ValueError(f"{name} holds {len(sigmas)} noise levels, which make no step; at least 2 are expected.")
    if not sigmas.isfinite().all() or (sigmas < 0).any():
        raise ValueError(f"{name} holds {sigmas.tolist()}; noise levels from 0 up are expected.")
    return sigmas


def check_finite(name: str, frames: Tensor, what: str = "frame") -> None:
    """Raise ValueError for NaN or infinity, with the number of the frame, from 1."""
    if not frames.is_floating_point():
        return
    rows: Iterable[Tensor] = frames if frames.ndim > 1 else [frames]
    for number, row in enumerate(rows, 1):
        # A sum tells without a second tensor of that size; float64 holds the sum of any half precision ones.
        if not math.isfinite(row.sum(dtype=torch.float64)):
            where = f"{what} {number} of {len(frames)}" if frames.ndim > 1 else "it"
            raise ValueError(f"{name}: {where} holds NaN or infinity; numbers are expected.")


def shown(value) -> str:
    """A value in a sentence: short, whatever it is, and fit for any connection."""
    if isinstance(value, Tensor):
        return f"a tensor of {_shape(value)}"
    if isinstance(value, str | int | float | bool | None):
        text = repr(value)
        return encodable(text if len(text) <= 60 else f"{text[:57]}...")
    return f"a {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}"
