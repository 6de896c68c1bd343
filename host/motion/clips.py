"""Clips to learn a motion from: videos in a folder, and what encoders make of their frames, once, kept in files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path

import av
import comfy.model_management
import numpy as np
import torch
from safetensors.torch import safe_open, save_file
from torch import Tensor

from ...core.networks.semantic_motion.training import LEAST_FRAMES, TOKENS, Clip
from ...core.video import files
from ...core.video.images import fit
from ..common import messages
from .predict import Space

NODE = "Train Motion Predictor"
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")

LATENTS = "latents"  # in a file of a clip

# tell("clip", "latents of clip" or "step", done, to do); may raise, to stop
Tell = Callable[[str, int, int], None]
# pictures [T, H, W, 3] -> a row for each
Encode = Callable[[Tensor], Tensor]


def clips_in(folder: Path) -> list[Path]:
    """What is named like a video in a folder and in those inside it, by their names. See `usable`."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def stamp(folder: Path) -> str:
    """A name for what is in a folder now: another one after a clip came, went or changed."""
    return digest([_identity(path) for path in clips_in(folder)])


def token_paths(space: Space, clip_vision, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    """Where in `folder` the tokens of every `stride`-th frame of each clip are, or will be."""
    return _paths(_tokens_by(space, clip_vision), clips, stride, folder)


def latent_paths(vae, size: int, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    """Where in `folder` the latents of the same frames' middle squares, of so many pixels a side, are, or will be."""
    return _paths(_latents_by(vae, size), clips, stride, folder)


def usable(clips: Sequence[Path], stride: int, paths: Sequence[Path]) -> list[int]:
    """Numbers of the clips that are videos of enough frames, or whose tokens are there. A message names each other one.

    Raises ValueError if there is none.
    """
    reasons = [None if path.exists() else _unusable(clip, stride) for clip, path in zip(clips, paths, strict=True)]
    lines = [f"{clip.name} is skipped: it {reason}." for clip, reason in zip(clips, reasons, strict=True) if reason]
    if clips and len(lines) == len(clips):
        found = f"{len(clips)} file{'s' * (len(clips) > 1)}"
        raise ValueError(f"{NODE}: the folder holds {found} and no clip to learn from: {lines[0]}")
    for line in lines:
        messages.warn(f"{NODE}: {line}")
    return [number for number, reason in enumerate(reasons) if not reason]


def _unusable(clip: Path, stride: int) -> str | None:
    """Why nothing can be learnt from a file, so far as its first frames tell."""
    if clip.is_dir():
        return "is a folder"
    try:
        found = sum(1 for _ in islice(files.read_frames(clip), 0, (LEAST_FRAMES - 1) * stride + 1, stride))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f"cannot be read as a video ({error})"
    except IndexError:
        return "has no pictures"
    if found >= LEAST_FRAMES:
        return None
    held = f"{found} frame{'s' * (found != 1)}"
    return f"has {held} at a stride of {stride}; at least {LEAST_FRAMES} are expected, two ends and one between"


def make_tokens(
    space: Space, clip_vision, clips: Sequence[Path], stride: int, paths: Sequence[Path], tell: Tell
) -> list[Clip]:
    """Write those of `token_paths` that are not there. Raises as `files.read_frames` for what is not `usable`."""
    _write_missing(_tokens_by(space, clip_vision), TOKENS, clips, stride, paths, partial(tell, "clip"))
    made = []
    for path in paths:
        with safe_open(path, "pt") as file:
            made.append(Clip(path, file.get_slice(TOKENS).get_shape()[0]))
    return made


def make_latents(vae, size: int, clips: Sequence[Path], stride: int, paths: Sequence[Path], tell: Tell) -> None:
    """Write those of `latent_paths` that are not there. Raises as `make_tokens`."""
    _write_missing(_latents_by(vae, size), LATENTS, clips, stride, paths, partial(tell, "latents of clip"))


def read_latents(path: Path, start: int, frames: int) -> Tensor:
    """float32 [T, channels, h, w] of some frames, as the VAE gave them."""
    with safe_open(path, "pt") as file:
        return file.get_slice(LATENTS)[start : start + frames].float()


def _tokens_by(space: Space, clip_vision) -> Encode:
    """Tokens [T, N, D] of pictures, or [T, S, N, D]."""
    return lambda pictures: space.encode(clip_vision, pictures, space.slots)


def _latents_by(vae, size: int) -> Encode:
    return lambda pictures: vae.encode(fit(pictures, size, size))


def _paths(encode: Encode, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    encoder = _name_of(encode)
    return [folder / f"{digest([encoder, stride, _identity(clip)])}.safetensors" for clip in clips]


def _write_missing(
    encode: Encode,
    name: str,
    clips: Sequence[Path],
    stride: int,
    paths: Sequence[Path],
    tell: Callable[[int, int], None],
) -> None:
    for number, (clip, path) in enumerate(zip(clips, paths, strict=True)):
        tell(number, len(clips))
        if not path.exists():
            write(path, {name: _encoded(encode, clip, stride)}, {"clip": clip.name})
    tell(len(clips), len(clips))


@torch.inference_mode()
def _encoded(encode: Encode, clip: Path, stride: int) -> Tensor:
    """float16, a row for each frame."""
    parts = []
    frames = islice(_readable(clip), 0, None, stride)
    while some := list(islice(frames, files.FRAMES_AT_ONCE)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(_half(encode, files.to_images(some)))
    return torch.cat(parts)


def _readable(clip: Path) -> Iterator[np.ndarray]:
    """The frames of a clip up to one that cannot be decoded, as the host reads it, or that has another size."""
    frames = files.read_frames(clip)
    first = next(frames)
    yield first
    for number in count(2):
        try:
            frame = next(frames, None)
        except av.error.FFmpegError as error:
            reason = f"cannot be read ({error})"
        else:
            if frame is None:
                return
            if frame.shape == first.shape:
                yield frame
                continue
            reason = "has another size"
        messages.warn(f"{NODE}: frame {number} of {clip.name} {reason}; the clip ends before it.")
        return


def _half(encode: Encode, pictures: Tensor) -> Tensor:
    return encode(pictures).half().cpu()


@torch.inference_mode()
def _name_of(encode: Encode) -> str:
    """Of an encoder with all that stands behind it: what it makes of a picture."""
    side = torch.linspace(0, 1, 64)
    picture = torch.stack([*torch.meshgrid(side, side, indexing="ij"), side.flip(0).expand(64, 64)], dim=-1)
    return hashlib.sha256(_half(encode, picture[None]).numpy().tobytes()).hexdigest()


def _identity(path: Path) -> list:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere
        return [path.name]
    return [path.name, stat.st_size, stat.st_mtime_ns]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """The file appears under its name when it is whole, never before."""
    with files.appearing(path, sum(t.numel() * t.element_size() for t in tensors.values())) as unfinished:
        save_file({key: t.contiguous().cpu() for key, t in tensors.items()}, unfinished, metadata)
