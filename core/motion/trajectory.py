"""The path of image tokens through a shot: between the given pictures' tokens, retimed, spliced, looked at.

StoryDiffusion (arXiv 2405.01434, section 3.2) takes a straight line from the first picture's tokens to the last one's,
at even steps. Everything here keeps that to the bit where nothing else is asked for.
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

    tokens: [L, N, D]. space: what they are: "ip-plus" and "ip", those of IP-Adapter's two kinds for SD1.5,
    "dynamicrafter", those of a DynamiCrafter checkpoint. nothing: [N, D], the tokens of no picture, where the space has
    them. told: how they came about.
    """

    tokens: Tensor
    space: str
    nothing: Tensor | None = None
    told: str = ""

    def __post_init__(self):
        if not len(self.tokens):
            raise ValueError("a motion of no frames is given; at least 1 frame is expected.")

    def __len__(self) -> int:
        return len(self.tokens)


def even(pictures: int, frames: int) -> list[int]:
    """The frames of so many given pictures, spread over a shot from its first to its last."""
    return [round(number * (frames - 1) / (pictures - 1)) for number in range(pictures)] if pictures > 1 else [0]


def check_knots(knots: Sequence[int], frames: int) -> None:
    """Raise ValueError unless the given pictures' frames ascend within the shot."""
    if list(knots) != sorted(set(knots)) or knots[0] < 0 or knots[-1] >= frames:
        raise ValueError(
            f"The pictures are given for frames {', '.join(map(str, knots))}; ascending numbers from 0 to {frames - 1} "
            "are expected."
        )


def clock(knots: Sequence[int], frames: int, easing: str = "linear", hold_start: int = 0, hold_end: int = 0) -> Tensor:
    """The time [L] at which each frame stands on its path, in frames; float64.

    From one of the `knots` to the next, time goes by `easing`, so each given picture keeps its frame. It stands still
    for `hold_start` frames after the first and for `hold_end` before the last.

    Raises ValueError for no frames, and if nothing is left to move.
    """
    if frames < 1:
        raise ValueError(f"a shot of {frames} frames is asked for; at least 1 is expected.")
    times = torch.arange(frames, dtype=torch.float64)
    for first, last in zip(knots, knots[1:], strict=False):
        start = first + (hold_start if first == knots[0] else 0)
        end = last - (hold_end if last == knots[-1] else 0)
        if start >= end:
            raise ValueError(
                f"Holding {hold_start} frames at the start and {hold_end} at the end leaves no motion between frames "
                f"{first} and {last}."
            )
        share = ((times[first : last + 1] - start) / (end - start)).clamp(0, 1)
        if easing != "linear" or (start, end) != (first, last):
            times[first : last + 1] = first + (last - first) * EASINGS[easing](share)
    return times


def follow(path: Tensor, knots: Sequence[int], times: Tensor) -> Tensor:
    """Straight lines between pictures, token by token.

    path: [K, N, D], or [K, L, N, D] where each frame has tokens of its own of every picture. knots: frame of each of
    the K. times: [L], see `clock` -> [L, N, D].
    """
    frames = len(times)
    if path.ndim == 3:
        path = path[:, None].expand(-1, frames, -1, -1)
    if len(knots) == 1:
        return path[0]
    at = torch.tensor(list(knots), dtype=times.dtype)
    before = (torch.searchsorted(at, times, right=True) - 1).clamp(0, len(at) - 2)
    share = ((times - at[before]) / (at[before + 1] - at[before])).clamp(0, 1)
    rows = torch.arange(frames)
    # lerp is exact at both ends, and where both are the same
    return torch.lerp(path[before, rows], path[before + 1, rows], share.to(path)[:, None, None])


def retime(path: Tensor, times: Tensor) -> Tensor:
    """What stands on a path [L, N, D] at other times [M] than those of its frames -> [M, N, D]."""
    return follow(path, range(len(path)), times)


def splice(first: Trajectory, second: Trajectory, overlap: int = 1) -> Trajectory:
    """One after the other; the last `overlap` frames of the first fade into as many of the second.

    Raises ValueError for tokens of two spaces, and if either is shorter than the overlap.
    """
    if first.space != second.space or first.tokens.shape[1:] != second.tokens.shape[1:]:
        shapes = [" x ".join(map(str, part.tokens.shape[1:])) for part in (first, second)]
        raise ValueError(
            f"The first motion is of {first.space} ({shapes[0]}) and the second of {second.space} ({shapes[1]}); "
            "both must be of one space."
        )
    if overlap > min(len(first), len(second)):
        raise ValueError(f"The motions have {len(first)} and {len(second)} frames; they cannot share {overlap}.")
    kept = len(first) - overlap
    share = (torch.arange(overlap) + 1) / (overlap + 1)
    between = torch.lerp(first.tokens[kept:], second.tokens[:overlap], share[:, None, None])
    tokens = torch.cat([first.tokens[:kept], between, second.tokens[overlap:]])
    return Trajectory(tokens, first.space, first.nothing, f"{first.told}; then {second.told}")


def step_lengths(tokens: Tensor) -> Tensor:
    """How far each frame [L, N, D] is from the one before: mean over the tokens of their distance, [L - 1]."""
    return tokens.diff(dim=0).norm(dim=-1).mean(dim=-1)


def principal_plane(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Where frames [L, N, D] lie along the two directions of most variance.

    Returns (places [L, 2], the share of the variance that each direction has [2]).
    """
    centred = tokens.flatten(1).double()
    centred = centred - centred.mean(dim=0)
    left, spread, _ = torch.linalg.svd(centred, full_matrices=False)
    left, spread = left[:, :2], spread[:2]
    farthest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))  # a direction's sign is anyone's choice
    places = left * spread * farthest.sign()
    places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))
    spread = torch.nn.functional.pad(spread, (0, 2 - len(spread)))
    total = centred.square().sum().clamp(min=torch.finfo(centred.dtype).tiny)
    return places, spread.square() / total
