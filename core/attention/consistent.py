"""Consistent Self-Attention as two decisions: shall this layer share tokens now, and who lends which to whom.

StoryDiffusion, arXiv 2405.01434: section 3.1 and Algorithm 1; the published code's schedule of layers (a coin for
every layer and step) is part of the settings, its draws are ours (see `draws`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from . import draws
from .sharing import Cast, Group, Rules, share

# Pixels a token spans at the coarse level of the published code ("sa32"); everything finer is its "sa64".
COARSE = 32


class Phase(Enum):
    """Where in its schedule the sampling stands."""

    BEFORE = "before start"
    EARLY = "early"
    LATE = "late"
    AFTER = "after end"


@dataclass(frozen=True)
class Settings:
    """What to share, how often, how much.

    sampling_rate, sampling_rate_fine: share of a frame's tokens that it lends, at 32 pixels a token and
        coarser, and at finer levels.
    layer_prob_early, layer_prob_late: probability that a layer shares tokens in a step.
    strength: weight of borrowed tokens; 1 as published.
    dense_early_read: before the start, frames that only read take all tokens of their anchors (published mask version).
    """

    rules: Rules = Rules()
    sampling_rate: float = 0.5
    sampling_rate_fine: float = 0.5
    layer_prob_early: float = 1.0
    layer_prob_late: float = 1.0
    strength: float = 1.0
    dense_early_read: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Share:
    """Groups of a layer call, and for each group the token numbers [m] that each row of its pool lends."""

    groups: list[Group]
    samples: list[list[Tensor]]

    @classmethod
    def nothing(cls, images: int) -> "Share":
        """Every image by itself."""
        return cls([Group((), dict.fromkeys(range(images), 1.0), 0, "all")], [[]])

    def to(self, device) -> "Share":
        return Share(self.groups, [[index.to(device) for index in sample] for sample in self.samples])


def shares_now(settings: Settings, phase: Phase, step: float, layer: int) -> bool:
    """Whether a layer shares tokens in this step: for all rows and in both halves of guidance, or not at all.

    step: any number that names it, see `draws`.
    """
    if phase is Phase.BEFORE:
        return settings.dense_early_read
    if phase is Phase.AFTER:
        return False
    probability = settings.layer_prob_early if phase is Phase.EARLY else settings.layer_prob_late
    return draws.coin(settings.seed, step, layer) < probability


def draw_share(
    settings: Settings,
    cast: Cast | None,
    frames: Sequence[int],
    *,
    phase: Phase,
    step: float,
    pixels: int,
    tokens: int,
    inside: Tensor | None = None,
) -> Share | None:
    """Who shares which tokens in a step at one level; None = nobody borrows anything.

    frames: frame number of each row. pixels: how many pixels a token spans. tokens: tokens of an image.
    inside: bool [rows, tokens], the tokens that may be lent; None = all.
    A sample is keyed by step, level and frame, so all layers of a level and all passes of a step see the same one.
    """
    dense = phase is Phase.BEFORE
    rate = 1.0 if dense else settings.sampling_rate if pixels >= COARSE else settings.sampling_rate_fine
    groups = share(frames, cast, settings.rules)
    if dense:
        lenders = {row for group in groups for row in group.pool}
        groups = [_plain(group) if lenders.intersection(group.readers) else group for group in groups]
    if rate <= 0 or not any(group.pool for group in groups):
        return None

    def sample(group: Group) -> list[Tensor]:
        pool = [frames[row] for row in group.pool]
        if settings.rules.include_self:
            drawn = draws.sample_window(settings.seed, step, pixels, group.window, pool, tokens, rate)
        else:
            drawn = [draws.sample_each(settings.seed, step, pixels, frame, tokens, rate) for frame in pool]
        if inside is None:
            return drawn
        return [index[inside[row][index]] for row, index in zip(group.pool, drawn, strict=True)]

    return Share(groups, [sample(group) for group in groups])


def tokens_inside(mask: Tensor, height: int, width: int) -> Tensor:
    """Which tokens of a level lie in a mask, by at least half of their area. [F, H, W] -> bool [F, height * width]."""
    return adaptive_avg_pool2d(mask[:, None].float(), (height, width)).flatten(1) >= 0.5


def _plain(group: Group) -> Group:
    return Group((), group.readers, group.window, "all")
