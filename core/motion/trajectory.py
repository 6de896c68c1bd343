"""The motion of a shot as the image tokens of its frames: interpolated, retimed, concatenated, measured.

StoryDiffusion (arXiv 2405.01434, section 3.2) interpolates linearly from the first image's tokens to the last one's, at
even steps. With default settings everything here does the same to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EASINGS = {
    "linear": lambda t: t,
    "ease in": lambda t: t**2,
    "ease out": lambda t: t * (2 - t),
    "ease in and out": lambda t: t**2 * (3 - 2 * t),
}


@dataclass(frozen=True)
class Trajectory:
    """Image tokens of every frame of a shot.

    tokens: [L, N, D]. token_space: which encoder they come from: "ip-plus" and "ip" for the two kinds of IP-Adapter for
    SD1.5, "dynamicrafter" for a DynamiCrafter checkpoint, "clip" and "dinov2" for all tokens of an image encoder.
    uncond: [N, D], the tokens of no image, if the encoder has them. description: how it was made, for the reader.
    """

    tokens: Tensor
    token_space: str
    uncond: Tensor | None = None
    description: str = ""

    def __post_init__(self):
        if not len(self.tokens):
            raise ValueError("The motion has no frames; at least 1 is expected.")

    def __len__(self) -> int:
        return len(self.tokens)


def spread_evenly(images: int, frames: int) -> list[int]:
    """The frames of so many images, evenly spaced from the first frame of a shot to its last."""
    return [round(number * (frames - 1) / (images - 1)) for number in range(images)] if images > 1 else [0]


def check_keyframe_indices(keyframe_indices: Sequence[int], frames: int) -> None:
    """Raise ValueError unless the indices ascend within the shot."""
    indices = list(keyframe_indices)
    if indices != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= frames:
        raise ValueError(
            f"The keyframes are at frames {', '.join(map(str, indices))}; ascending numbers from 0 to {frames - 1} are "
            "expected."
        )


def keyframe_mask(keyframe_indices: Sequence[int], frames: int) -> Tensor:
    """bool [L], true at the keyframes."""
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[list(keyframe_indices)] = True
    return mask


def timing(
    keyframe_indices: Sequence[int], frames: int, easing: str = "linear", hold_start: int = 0, hold_end: int = 0
) -> Tensor:
    """The position [L] of each frame along the interpolation, in frames; float64.

    From one keyframe to the next, time follows `easing`, so each keyframe stays at its frame. It stands still for
    `hold_start` frames after the first keyframe and for `hold_end` frames before the last.

    Raises ValueError for no frames, and if no frame is left to move.
    """
    if frames < 1:
        raise ValueError(f"The shot has {frames} frames; at least 1 is expected.")
    times = torch.arange(frames, dtype=torch.float64)
    for first, last in zip(keyframe_indices, keyframe_indices[1:], strict=False):
        start = first + (hold_start if first == keyframe_indices[0] else 0)
        end = last - (hold_end if last == keyframe_indices[-1] else 0)
        if start >= end:
            raise ValueError(
                f"hold_start is {hold_start} and hold_end is {hold_end}; no motion is left between frames {first} and "
                f"{last}."
            )
        share = ((times[first : last + 1] - start) / (end - start)).clamp(0, 1)
        if easing != "linear" or (start, end) != (first, last):
            times[first : last + 1] = first + (last - first) * EASINGS[easing](share)
    return times


def interpolate(keyframes: Tensor, keyframe_indices: Sequence[int], times: Tensor) -> Tensor:
    """Linear interpolation between the tokens of keyframes.

    keyframes: [K, N, D], or [K, L, N, D] if a keyframe has different tokens for each frame. keyframe_indices: the frame
    of each of the K. times: [L], see `timing` -> [L, N, D].
    """
    frames = len(times)
    if keyframes.ndim == 3:
        keyframes = keyframes[:, None].expand(-1, frames, -1, -1)
    if len(keyframe_indices) == 1:
        return keyframes[0]
    at = torch.tensor(list(keyframe_indices), dtype=times.dtype)
    before = (torch.searchsorted(at, times, right=True) - 1).clamp(0, len(at) - 2)
    share = ((times - at[before]) / (at[before + 1] - at[before])).clamp(0, 1)
    rows = torch.arange(frames)
    # lerp is exact at both ends, and where both are the same
    return torch.lerp(keyframes[before, rows], keyframes[before + 1, rows], share.to(keyframes)[:, None, None])


def retime(tokens: Tensor, times: Tensor) -> Tensor:
    """Tokens of frames [L, N, D], read at other times [M] -> [M, N, D]."""
    return interpolate(tokens, range(len(tokens)), times)


def concat(first: Trajectory, second: Trajectory, overlap: int = 1) -> Trajectory:
    """One after the other; the last `overlap` frames of the first fade into as many of the second.

    Raises ValueError for tokens of two encoders, and if either is shorter than the overlap.
    """
    if first.token_space != second.token_space or first.tokens.shape[1:] != second.tokens.shape[1:]:
        shapes = [" x ".join(map(str, part.tokens.shape[1:])) for part in (first, second)]
        raise ValueError(
            f"The first motion has tokens of {first.token_space} ({shapes[0]}) and the second of {second.token_space} "
            f"({shapes[1]}); both must have the same token_space."
        )
    if overlap > min(len(first), len(second)):
        raise ValueError(
            f"The motions have {len(first)} and {len(second)} frames; an overlap of {overlap} is too long."
        )
    kept = len(first) - overlap
    share = (torch.arange(overlap) + 1) / (overlap + 1)
    faded = torch.lerp(first.tokens[kept:], second.tokens[:overlap], share[:, None, None])
    tokens = torch.cat([first.tokens[:kept], faded, second.tokens[overlap:]])
    return Trajectory(tokens, first.token_space, first.uncond, f"{first.description}; then {second.description}")


def step_lengths(tokens: Tensor) -> Tensor:
    """Distance of each frame [L, N, D] from the one before: mean over the tokens, [L - 1]."""
    return tokens.diff(dim=0).norm(dim=-1).mean(dim=-1)


def principal_plane(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Frames [L, N, D] in the plane of their two principal components.

    Returns (coordinates [L, 2], the share of the variance that each component has [2]).
    """
    centered = tokens.flatten(1).double()
    centered = centered - centered.mean(dim=0)
    left, spread, _ = torch.linalg.svd(centered, full_matrices=False)
    left, spread = left[:, :2], spread[:2]
    farthest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))  # the sign of a component is arbitrary
    coordinates = left * spread * farthest.sign()
    coordinates = torch.nn.functional.pad(coordinates, (0, 2 - coordinates.shape[1]))
    spread = torch.nn.functional.pad(spread, (0, 2 - len(spread)))
    total = centered.square().sum().clamp(min=torch.finfo(centered.dtype).tiny)
    return coordinates, spread.square() / total
