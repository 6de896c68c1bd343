"""Consistent Self-Attention as two decisions: does this layer share tokens now, and which tokens do the frames share.

StoryDiffusion, arXiv 2405.01434: section 3.1 and Algorithm 1; the published code's schedule of layers (a random number
for every layer and step) is part of the settings; the draws are this pack's own (see `draws`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from . import draws
from .sharing import Cast, Group, SharingRules, find_groups, with_stored


class Phase(Enum):
    """Where in its schedule the sampling stands."""

    BEFORE = "before start"
    EARLY = "early"
    LATE = "late"
    AFTER = "after end"


@dataclass(frozen=True)
class Settings:
    """What is shared, how often, and with what weight.

    sampling_rate, sampling_rate_fine: the fraction of a source frame's tokens that is shared, at levels of 32 pixels
        per token and coarser, and at finer levels.
    layer_prob_early, layer_prob_late: probability that a layer shares tokens in a step.
    strength: weight of a shared token; 1 as published.
    dense_early_read: before the start, frames that are no source read all tokens of their anchors (published mask
        version).
    """

    rules: SharingRules = SharingRules()
    sampling_rate: float = 0.5
    sampling_rate_fine: float = 0.5
    layer_prob_early: float = 1.0
    layer_prob_late: float = 1.0
    strength: float = 1.0
    dense_early_read: bool = False
    seed: int = 0

    def rate_at(self, pixels: int) -> float:
        """The sampling rate of a level whose tokens span so many pixels."""
        return draws.rate_at(pixels, self.sampling_rate, self.sampling_rate_fine)


@dataclass(frozen=True)
class SharedTokens:
    """The groups of a layer call, and for each group the shared token indices [m] of each of its source rows."""

    groups: list[Group]
    samples: list[list[Tensor]]

    @classmethod
    def none(cls, images: int) -> "SharedTokens":
        """Every image attends to its own tokens alone."""
        return cls([Group((), dict.fromkeys(range(images), 1.0), 0, "all")], [[]])

    def with_stored(self, images: Sequence[tuple[int, ...]]) -> "SharedTokens":
        """The same, and every row also reads tokens of these images of a bank."""
        pairs = [
            (part, sample)
            for group, sample in zip(self.groups, self.samples, strict=True)
            for part in with_stored(group, images)
        ]
        return SharedTokens([group for group, _ in pairs], [sample for _, sample in pairs])

    def to(self, device) -> "SharedTokens":
        return SharedTokens(self.groups, [[index.to(device) for index in sample] for sample in self.samples])

    def behind(self, first: int) -> "SharedTokens":
        """The same tokens in a sequence that holds so many others before the image."""
        return SharedTokens(self.groups, [[index + first for index in sample] for sample in self.samples])


def layer_shares(settings: Settings, phase: Phase, step: float, layer: int) -> bool:
    """Whether a layer shares tokens in this step, for all rows, cond and uncond alike.

    step: any number that identifies the step, see `draws`.
    """
    if phase is Phase.BEFORE:
        return settings.dense_early_read
    if phase is Phase.AFTER:
        return False
    probability = settings.layer_prob_early if phase is Phase.EARLY else settings.layer_prob_late
    return draws.coin(settings.seed, step, layer) < probability


def draw_shared_tokens(
    settings: Settings,
    cast: Cast | None,
    frames: Sequence[int],
    *,
    phase: Phase,
    step: float,
    pixels: int,
    tokens: int,
    mask: Tensor | None = None,
    apart: frozenset[str] = frozenset(),
) -> SharedTokens | None:
    """The tokens that frames share in a step at one level; None = no frame reads another.

    frames: frame number of each row. pixels: how many pixels a token spans. tokens: tokens of an image.
    mask: bool [rows, tokens], the tokens that may be shared; None = all. apart: characters that share no tokens.
    A sample is keyed by step, level and frame, so all layers of a level and all passes of a step use the same one.
    """
    dense = phase is Phase.BEFORE
    rate = 1.0 if dense else settings.rate_at(pixels)
    groups = find_groups(frames, cast, settings.rules, apart)
    if dense:
        sources = {row for group in groups for row in group.sources}
        groups = [_plain(group) if sources.intersection(group.targets) else group for group in groups]
    if rate <= 0 or not any(group.sources for group in groups):
        return None

    def sample(group: Group) -> list[Tensor]:
        source_frames = [frames[row] for row in group.sources]
        if settings.rules.include_self:
            drawn = draws.sample_window(settings.seed, step, pixels, group.window, source_frames, tokens, rate)
        else:
            drawn = [draws.sample_each(settings.seed, step, pixels, frame, tokens, rate) for frame in source_frames]
        if mask is None:
            return drawn
        return [index[mask[row][index]] for row, index in zip(group.sources, drawn, strict=True)]

    return SharedTokens(groups, [sample(group) for group in groups])


def tokens_in_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """The tokens of a level of which at least half lies in the mask. [F, H, W] -> bool [F, height * width]."""
    return adaptive_avg_pool2d(mask[:, None].float(), (height, width)).flatten(1) >= 0.5


def _plain(group: Group) -> Group:
    return Group((), group.targets, group.window, "all")
