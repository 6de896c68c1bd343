"""Where shared tokens seem to stand: rotary positions of keys that are rotated already.

RoPE (arXiv 2104.09864) rotates pair i of a head's channels by the angle p w_i, where p is the position and
w_i = theta^(-2i / d). Rotations add up, R(p + s) = R(s) R(p), so keys at p are moved to p + s by one more rotation, the
same for all tokens.

* same: unchanged, as StoryDiffusion shares tokens in networks without rotary positions. A token of another image then
  looks like the target's own token at the same place.
* beside: one image width to the right (AlignedGen, arXiv 2509.17088, "ShiftPE").
* reference: one step on the axis on which editing models were trained to see reference images.
* dimmed: nothing moves, but the pairs that turn fast, by which a token attracts queries at its own place, count less
  (Untwisting RoPE, arXiv 2602.05013, equation of s_d with s_hf = 0.5, s_lf = 1 and beta = 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

POSITIONS = ("same", "beside", "reference", "dimmed")

INDEX_AXIS, WIDTH_AXIS = 0, 2

DIMMED_FAST = 0.5  # s_hf: scale of the fastest pair of an axis; the slowest keeps its length


@dataclass(frozen=True)
class Rope:
    """Rotary positions of a network.

    channels: of a head for each axis: time or index, height, width, and others that images do not use.
    thetas: one for each axis.
    interleaved: pairs are channels (0, 1), (2, 3), ...; else (0, d/2), (1, d/2 + 1), ..., over all axes.
    reference: how far away on the first axis editing models of this class were trained to see a reference image;
        None = there is no such model.
    """

    channels: tuple[int, ...]
    thetas: tuple[float, ...]
    interleaved: bool = True
    reference: float | None = None

    def shift(self, position: str, width: int) -> tuple[float, ...]:
        """How far shared tokens move on each axis, for images `width` tokens wide."""
        moved = [0.0] * len(self.channels)
        if position == "beside":
            moved[WIDTH_AXIS] = float(width)
        elif position == "reference":
            if self.reference is None:
                raise ValueError("no editing model of this network was trained with reference images.")
            moved[INDEX_AXIS] = self.reference
        return tuple(moved)


def angles(rope: Rope, shift: Sequence[float]) -> Tensor:
    """By how much each pair of channels turns in a shift. [d/2], float64."""
    parts = []
    for channels, theta, distance in zip(rope.channels, rope.thetas, shift, strict=True):
        pairs = torch.arange(channels // 2, dtype=torch.float64)
        parts.append(distance * theta ** (-2 * pairs / channels))
    return torch.cat(parts)


def scales(rope: Rope, fast: float = DIMMED_FAST) -> Tensor:
    """s_d of every pair: `fast` for the fastest of an axis, 1 for its slowest. [d/2], float64."""
    return torch.cat([torch.linspace(fast, 1, channels // 2, dtype=torch.float64) for channels in rope.channels])


@dataclass(frozen=True)
class Movement:
    """Moves rotated keys to another position: pair i is multiplied by the complex number real[i] + j imaginary[i]."""

    real: Tensor
    imaginary: Tensor
    interleaved: bool

    def __call__(self, keys: Tensor) -> Tensor:
        """keys [..., d], in any number format; the arithmetic is float32, as that of the host's rotation."""
        pairs = keys.float().unflatten(-1, (-1, 2) if self.interleaved else (2, -1))
        axis = -1 if self.interleaved else -2
        x, y = pairs.unbind(axis)
        moved = x * self.real - y * self.imaginary, x * self.imaginary + y * self.real
        return torch.stack(moved, axis).flatten(-2).to(keys.dtype)


def movement(rope: Rope, position: str, width: int, device: torch.device | str = "cpu") -> Movement | None:
    """How the keys of shared tokens move; None if they stay.

    position: one of POSITIONS. width: of the images, in tokens. Raises ValueError for "reference" without a reference.
    """
    if position == "same":
        return None
    if position == "dimmed":
        real = scales(rope)
        imaginary = torch.zeros_like(real)
    else:
        turned = angles(rope, rope.shift(position, width))
        real, imaginary = turned.cos(), turned.sin()
    return Movement(real.to(device, torch.float32), imaginary.to(device, torch.float32), rope.interleaved)
