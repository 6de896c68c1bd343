"""Latents that know which frames of a story they are, and the frames that a user names.

The host's sampler gets a tensor of latents and not the LATENT's batch_index, and frames that share a noise share that
number, too. So the tensor itself carries the frames, through what the host does to latents on their way to a sampler:
picked out of the batch, repeated, joined, given other channels, copied, enlarged. Whatever computes with it gets a
plain tensor.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

PART = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class Frames:
    """Frames of a story of `count`: their `numbers`, from 0, in the order of a batch."""

    numbers: tuple[int, ...]
    count: int

    @classmethod
    def all(cls, count: int) -> "Frames":
        return cls(tuple(range(count)), count)

    def pick(self, places: Sequence[int]) -> "Frames":
        return Frames(tuple(self.numbers[place] for place in places), self.count)


class FrameLatents(Tensor):
    """Latents [B, ...] of which sample i is frame `frames.numbers[i]`."""

    frames: Frames

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
            if type(result) is not Tensor or function not in MOVES:
                return result
            return _follow(function, result, args, kwargs)

    def __reduce_ex__(self, protocol):
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # in a file it is a plain tensor

    def __deepcopy__(self, memo):
        return self.clone()


COPIES = {Tensor.clone, Tensor.detach, Tensor.contiguous, Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.float, Tensor.half}
COPIES |= {Tensor.bfloat16, interpolate}
PICKS = {Tensor.__getitem__, Tensor.narrow, Tensor.repeat, Tensor.unsqueeze, torch.cat}
MOVES = COPIES | PICKS


def mark_frames(latents: Tensor, frames: Frames) -> Tensor:
    """The same latents [B, ...], which know which frames they are."""
    marked = latents.as_subclass(FrameLatents)
    marked.frames = frames
    return marked


def frames_in(latents: Tensor) -> Frames | None:
    """The frames that latents know to be; None for plain ones."""
    frames = getattr(latents, "frames", None) if isinstance(latents, FrameLatents) else None
    return frames if frames is not None and len(frames.numbers) == len(latents) else None


def plain(latents: Tensor) -> Tensor:
    """The same latents without their frames."""
    return latents.as_subclass(Tensor)


def _follow(function, result: Tensor, args: tuple, kwargs: dict) -> Tensor:
    """`result` with the frames that it holds: what moved the latents moves their numbers in the same way."""
    source = args[0]
    if function in COPIES:
        frames = frames_in(source) if isinstance(source, Tensor) else None
        return result if frames is None else mark_frames(result, frames)
    parts = source if isinstance(source, tuple | list) else [source]
    found = [frames_in(part) for part in parts]
    known = [frames for frames in found if frames is not None]
    if len(known) < len(found) or result.ndim < parts[0].ndim or len({frames.count for frames in known}) > 1:
        return result
    numbers = [_numbers(part, frames) for part, frames in zip(parts, known, strict=True)]
    moved = function(numbers if isinstance(source, tuple | list) else numbers[0], *args[1:], **kwargs)
    rows = moved.flatten(1)
    if not rows.numel() or not (rows == rows[:, :1]).all():
        return result  # another dimension has become the first
    return mark_frames(result, Frames(tuple(rows[:, 0].tolist()), known[0].count))


def _numbers(latents: Tensor, frames: Frames) -> Tensor:
    numbers = torch.tensor(frames.numbers, device=latents.device)
    return numbers.view(-1, *[1] * (latents.ndim - 1)).expand(latents.shape)


def read_frames(text: str, count: int) -> list[int]:
    """Frame numbers from 0 of what a user writes from 1: "2, 4-6". Raises ValueError for a number not in 1 to `count`,
    and for anything else."""
    frames = []
    for part in text.split(","):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(f"frames is {text!r}; numbers and ranges such as 2, 4-6 are expected.")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= count:
            raise ValueError(f"frames names {part.strip()}, and there are {count}; 1 to {count} is expected.")
        frames += range(first - 1, last)
    return frames
