"""Clips to learn a motion from: videos in a folder, and the tokens of their frames, made once and kept in files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import av
import comfy.model_management
import torch
from safetensors.torch import safe_open, save_file
from torch import Tensor

from ..core.networks.semantic_motion.training import LEAST_FRAMES, TOKENS, Clip
from ..core.video import files
from .motion import Space

NODE = "StoryReelTrainMotionPredictor"
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")

# tell("clip" or "step", done, to do); may raise, to stop
Tell = Callable[[str, int, int], None]


def clips_in(folder: Path) -> list[Path]:
    """The videos in a folder and in those inside it, by their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def stamp(folder: Path) -> str:
    """A name for what is in a folder now: another one after a clip came, went or changed."""
    return digest([_identity(path) for path in clips_in(folder)])


def token_paths(space: Space, clip_vision, clips: Sequence[Path], stride: int, folder: Path) -> list[Path]:
    """Where in `folder` the tokens of every `stride`-th frame of each clip are, or will be."""
    encoder = _name_of(space, clip_vision)
    return [folder / f"{digest([encoder, stride, _identity(clip)])}.safetensors" for clip in clips]


def make_tokens(
    space: Space, clip_vision, clips: Sequence[Path], stride: int, paths: Sequence[Path], tell: Tell
) -> list[Clip]:
    """Write those of `token_paths` that are not there. Raises ValueError for a file that is no clip, or a short one."""
    made = []
    for number, (clip, path) in enumerate(zip(clips, paths, strict=True)):
        tell("clip", number, len(clips))
        if not path.exists():
            write(path, {TOKENS: _tokens(space, clip_vision, clip, stride)}, {"clip": clip.name})
        with safe_open(path, "pt") as file:
            made.append(Clip(path, file.get_slice(TOKENS).get_shape()[0]))
    tell("clip", len(clips), len(clips))
    return made


@torch.inference_mode()
def _tokens(space: Space, clip_vision, clip: Path, stride: int) -> Tensor:
    """float16 [T, N, D], or [T, S, N, D]."""
    parts = []
    try:
        frames = islice(files.read_frames(clip), 0, None, stride)
        while some := list(islice(frames, files.FRAMES_AT_ONCE)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            parts.append(_encode(space, clip_vision, files.to_pictures(some)))
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: sound alone
        raise ValueError(f"{NODE}: {clip.name} cannot be read as a video ({error}).") from error
    count = sum(map(len, parts))
    if count < LEAST_FRAMES:
        raise ValueError(
            f"{NODE}: {clip.name} has {count} frames at a stride of {stride}; at least {LEAST_FRAMES} are expected, "
            "two ends and one between."
        )
    return torch.cat(parts)


def _encode(space: Space, clip_vision, pictures: Tensor) -> Tensor:
    return space.encode(clip_vision, pictures, space.slots).half().cpu()


@torch.inference_mode()
def _name_of(space: Space, clip_vision) -> str:
    """Of an image encoder with all that stands behind it: what it makes of a picture."""
    side = torch.linspace(0, 1, 64)
    picture = torch.stack([*torch.meshgrid(side, side, indexing="ij"), side.flip(0).expand(64, 64)], dim=-1)
    return hashlib.sha256(_encode(space, clip_vision, picture[None]).numpy().tobytes()).hexdigest()


def _identity(path: Path) -> list:
    told = path.stat()
    return [path.name, told.st_size, told.st_mtime_ns]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """The file appears under its name when it is whole, never before."""
    with files.appearing(path) as unfinished:
        save_file({key: t.contiguous().cpu() for key, t in tensors.items()}, unfinished, metadata)
