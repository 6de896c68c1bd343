"""Training clips: videos in a folder, and files with the tokens and latents of their frames, each encoded once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path

import av.error
import comfy.model_management
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...core.networks.semantic_motion.training import MIN_FRAMES, TOKENS, TokenClip
from ...core.video import files
from ...core.video.images import fit
from ..common import messages
from .job import TokenSpec

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")

LATENTS = "latents"  # key in the file of a clip

# report(kind, done, total), kind "clip", "latents of clip" or "step"; may raise an exception to stop the training
Report = Callable[[str, int, int], None]
# images [T, H, W, 3] -> a row for each
Encode = Callable[[Tensor], Tensor]


def clips_in(folder: Path) -> list[Path]:
    """Files with the suffix of a video in a folder and its subfolders, sorted. See `usable`."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def stamp(folder: Path) -> str:
    """A digest of the clips in a folder, which changes if one is added, removed or modified."""
    return digest([_identity(path) for path in clips_in(folder)])


def token_paths(tokens: TokenSpec, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    """The files in `folder` for the tokens of every `stride`-th frame of each clip."""
    return _paths(tokens.encode, clips, stride, folder)


def latent_paths(vae, resolution: int, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    """The files in `folder` for the latents of the same frames, center-cropped to `resolution` pixels."""
    return _paths(_latent_encoder(vae, resolution), clips, stride, folder)


def usable(clips: Sequence[Path], stride: int, paths: Sequence[Path]) -> list[int]:
    """Indices of the clips that are videos of enough frames, or whose tokens exist. A message names each other one.

    Raises ValueError if no clip is usable.
    """
    reasons = [None if path.exists() else _unusable(clip, stride) for clip, path in zip(clips, paths, strict=True)]
    lines = [f"{clip.name} is skipped: it {reason}." for clip, reason in zip(clips, reasons, strict=True) if reason]
    if clips and len(lines) == len(clips):
        found = f"{len(clips)} file{'s' * (len(clips) > 1)}"
        raise ValueError(f"the folder holds {found}, and none can be used for training: {lines[0]}")
    for line in lines:
        messages.warn(line)
    return [number for number, reason in enumerate(reasons) if not reason]


def _unusable(clip: Path, stride: int) -> str | None:
    """Why a file cannot be used, judged by its first frames."""
    if clip.is_dir():
        return "is a folder"
    try:
        found = sum(1 for _ in islice(files.read_frames(clip), 0, (MIN_FRAMES - 1) * stride + 1, stride))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f"cannot be read as a video ({error})"
    except IndexError:
        return "has no frames"
    if found >= MIN_FRAMES:
        return None
    held = f"{found} frame{'s' * (found != 1)}"
    return f"has {held} at a stride of {stride}; at least {MIN_FRAMES} are expected"


def make_tokens(
    tokens: TokenSpec, clips: Sequence[Path], stride: int, paths: Sequence[Path], report: Report
) -> list[TokenClip]:
    """Write the files of `token_paths` that do not exist. Raises like `files.read_frames` for what is not `usable`."""
    _write_missing(tokens.encode, TOKENS, clips, stride, paths, partial(report, "clip"))
    token_clips = []
    for path in paths:
        with safe_open(path, "pt") as file:
            token_clips.append(TokenClip(path, file.get_slice(TOKENS).get_shape()[0]))
    return token_clips


def make_latents(
    vae, resolution: int, clips: Sequence[Path], stride: int, paths: Sequence[Path], report: Report
) -> None:
    """Write the files of `latent_paths` that do not exist. Raises like `make_tokens`."""
    encode = _latent_encoder(vae, resolution)
    _write_missing(encode, LATENTS, clips, stride, paths, partial(report, "latents of clip"))


def read_latents(path: Path, start: int, frames: int) -> Tensor:
    """float32 [T, channels, h, w] of some frames, as the VAE returned them."""
    with safe_open(path, "pt") as file:
        return file.get_slice(LATENTS)[start : start + frames].float()


def _latent_encoder(vae, resolution: int) -> Encode:
    return lambda images: vae.encode(fit(images, resolution, resolution))


def _paths(encode: Encode, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    encoder = _fingerprint(encode)
    return [folder / f"{digest([encoder, stride, _identity(clip)])}.safetensors" for clip in clips]


def _write_missing(
    encode: Encode,
    name: str,
    clips: Sequence[Path],
    stride: int,
    paths: Sequence[Path],
    report: Callable[[int, int], None],
) -> None:
    for number, (clip, path) in enumerate(zip(clips, paths, strict=True)):
        report(number, len(clips))
        if not path.exists():
            write(path, {name: _encoded(encode, clip, stride)}, {"clip": clip.name})
    report(len(clips), len(clips))


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
    """The frames of a clip up to the first that cannot be decoded or has another size."""
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
        messages.warn(f"frame {number} of {clip.name} {reason}; the clip ends before it.")
        return


def _half(encode: Encode, images: Tensor) -> Tensor:
    return encode(images).half().cpu()


@torch.inference_mode()
def _fingerprint(encode: Encode) -> str:
    """Of an encoder and all models behind it: the digest of its output for a fixed image."""
    side = torch.linspace(0, 1, 64)
    image = torch.stack([*torch.meshgrid(side, side, indexing="ij"), side.flip(0).expand(64, 64)], dim=-1)
    return hashlib.sha256(_half(encode, image[None]).numpy().tobytes()).hexdigest()


def _identity(path: Path) -> list:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere
        return [path.name]
    return [path.name, stat.st_size, stat.st_mtime_ns]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """The file appears under its name only when it is complete."""
    with files.appearing(path, sum(t.numel() * t.element_size() for t in tensors.values())) as unfinished:
        save_file({key: t.contiguous().cpu() for key, t in tensors.items()}, unfinished, metadata)
