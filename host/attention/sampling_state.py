"""The state of a sampling run with Consistent Self-Attention, and the messages about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.attention.attention_map import AttentionMap
from ...core.attention.bank import Bank
from ...core.attention.consistent import Phase, Settings, SharedTokens, draw_shared_tokens, tokens_in_mask
from ...core.attention.schedule import Percents, Phases, phases_of, step_of
from ...core.attention.sharing import Cast
from ...core.story.story import Story
from ..common import messages

if TYPE_CHECKING:
    from .attention_record import AttentionRecord
    from .bank_reading import BankReader
    from .recording import Run
    from .regions import Regions

KEY = "storyreel_consistent_attention"
CONFIG = "storyreel_consistent_attention_config"  # in transformer_options: the `PatchConfig` of the node
NODE = "Consistent Self-Attention"


class Misfit(Exception):
    """An attention call that cannot share tokens; the message says why."""


@dataclass(frozen=True)
class PatchRange:
    """The blocks of the network, the steps, and the conds in which tokens are shared.

    Percents are the host's: 0 is the start of sampling, 1 its end. `switch_percent` divides early from late.
    blocks: a choice of the network's kind, or "auto"; unet_blocks: what "auto" is for a UNet.
    positions: of shared tokens, see `core.attention.positions`.
    extra_bytes: memory that a layer may use beyond plain attention; a mask adds one more result of plain attention.
    """

    blocks: str = "auto"
    unet_blocks: str = "up"
    positions: str = "same"
    start_percent: float = 0.0
    end_percent: float = 1.0
    switch_percent: float = 0.4
    apply_to: str = "both"
    extra_bytes: int = 64 << 20

    @property
    def percents(self) -> Percents:
        return Percents(self.start_percent, self.switch_percent, self.end_percent)

    def applies_to(self, cond: int) -> bool:
        """cond: 0 cond, 1 uncond."""
        return self.apply_to in ("both", "uncond" if cond == 1 else "cond")


@dataclass(frozen=True, eq=False)
class PatchConfig:
    """One application of the node: settings, range, and the characters of each frame.

    mask: [frames or 1, H, W]; only tokens inside are shared and read shared ones. None = the whole image.
    bank: is read besides; its characters share no other tokens. story: that `cast` is of, for its texts.
    attention: where runs are recorded for an attention map; None = they are not.
    node: id of the node that shows the messages; None = log only.
    """

    settings: Settings
    patch_range: PatchRange
    cast: Cast | None
    mask: Tensor | None = None
    bank: Bank | None = None
    story: Story | None = None
    attention: AttentionRecord | None = None
    node: str | None = None

    @property
    def read_names(self) -> frozenset[str]:
        """The characters that are read from the bank; they share no tokens in the batch."""
        return frozenset() if self.bank is None or self.cast is None else self.bank.characters

    def bank_characters(self, frame: int) -> frozenset[str]:
        """The characters of a frame that the bank holds; without a story, all of the bank."""
        held = frozenset() if self.bank is None else self.bank.characters
        return held if self.cast is None else held & self.cast[frame]

    def bank_images_of(self, names: frozenset[str] | None) -> tuple[int, ...]:
        """The images of the bank that stand for any of these characters; None = all."""
        return () if self.bank is None else self.bank.images_of(names)

    def bank_images(self, frames: Sequence[int]) -> list[tuple[int, ...]]:
        """The images of the bank that each of these frames reads; without a story, all of them."""
        return [self.bank_images_of(None if self.cast is None else self.cast[frame]) for frame in frames]


@dataclass
class SamplingState:
    """The state of one sampling run: its schedule, the draws of the current step, and the messages already shown.

    frames: the story frame of each image of the batch; None: the batch is the story from its first frame on.
    size: the latents' (height, width), of which a conditioning with an area passes the model a part; None if unknown.
    step: the noise level that identifies the current step, see `step_of`.
    images: number of images of the batch; None if unknown.
    every_cond: the guider has other conds than cond and uncond, so all of them share tokens.
    conds: the conds that the model was called with: 0 cond, 1 uncond.
    passes, blocks_met: of a transformer, its forward passes, and the blocks whose attention this node saw.
    reader: of the bank. recording: what this run records. regions: where characters stand. attention_map: gets what
        frames borrow.
    """

    phases: Phases
    node: str | None = None
    frames: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    warned: set[str] = field(default_factory=set)
    sigmas: Tensor | None = None
    step: float = math.nan  # before the first step
    phase: Phase = Phase.EARLY
    shared_tokens: dict[tuple, SharedTokens | None] = field(default_factory=dict)
    token_masks: dict[tuple, Tensor] = field(default_factory=dict)
    conds: set[int] = field(default_factory=set)
    images: int | None = None
    every_cond: bool = False
    passes: int = 0
    blocks_met: set[int] = field(default_factory=set)
    reader: BankReader | None = None
    recording: Run | None = None
    regions: Regions | None = None
    attention_map: AttentionMap | None = None

    @classmethod
    def without_sampler(cls) -> SamplingState:
        """For a forward pass without a sampler: every sigma is early."""
        return cls(Phases(start=math.inf, switch=0.0, end=0.0))

    @classmethod
    def begin(
        cls, config: PatchConfig, model_sampling, sigmas: Tensor, noise: Tensor, frames=None, conds: int = 2
    ) -> SamplingState:
        """noise: of the batch. conds: number of the guider's conds."""
        phases = phases_of(config.patch_range.percents, model_sampling.percent_to_sigma, sigmas.tolist())
        height, width = noise.shape[-2:]
        return cls(phases, config.node, frames, (height, width), images=len(noise), every_cond=conds > 2)

    def enter(self, extra_options: dict) -> None:
        """Update the step and the phase. All layers of a step get the same `sigmas` tensor."""
        self.conds.update(extra_options["cond_or_uncond"])
        sigmas = extra_options["sigmas"]
        if sigmas is self.sigmas:
            return
        self.sigmas = sigmas
        sigma = float(sigmas.flatten()[0])
        schedule = extra_options.get("sample_sigmas")
        step = step_of(sigma, [] if schedule is None else schedule.tolist())
        if step != self.step:
            self.shared_tokens.clear()
            if self.regions is not None:
                self.regions.begin_step(step)
        self.step = step
        self.phase = self.phases.at(sigma)

    def warn_once(self, message: str) -> None:
        """Show a message on the node and in the log, once per run."""
        if message not in self.warned:
            self.warned.add(message)
            messages.warn(f"{NODE}: {message}", self.node)

    def describe_nothing_shared(self, config: PatchConfig, one_is_enough: bool = False) -> str | None:
        """Why a finished run shared no tokens, for reasons that are unknown before it; None if it shared some.

        one_is_enough: a single image reads a bank, or is recorded.
        """
        wanted = None if self.every_cond else {"cond": 0, "uncond": 1}.get(config.patch_range.apply_to)
        if wanted is not None and self.conds and wanted not in self.conds:
            return (
                f"apply_to is {config.patch_range.apply_to}, but this run did not compute it (cfg 1 skips uncond), so "
                "no tokens were shared; set apply_to to both."
            )
        # one mask for all images, or masks of at least two images
        least = 1 if one_is_enough or config.mask is not None and len(config.mask) == 1 else 2
        if self.token_masks and all(mask.any(1).sum() < least for mask in self.token_masks.values()):
            one = "the mask covers less than half of every token"
            why = one if least == 1 else "fewer than two of the masks cover half of a token"
            return f"{why}, so no tokens were shared; paint a larger area."
        return None

    def applies_to(self, config: PatchConfig, cond: int) -> bool:
        """cond: 0 cond, 1 uncond."""
        return self.every_cond or config.patch_range.applies_to(cond)

    def describe_other_images(self, indices: tuple[int, ...], extra_options: dict) -> str | None:
        """Why it is unknown which images of the batch a call is for; None if it is known."""
        if self.images is None or len(indices) == self.images:
            return None
        if listed_images(extra_options) == indices and max(indices) < self.images:
            return None
        return f"another patch passes {len(indices)} images at a time and the batch has {self.images}"

    @property
    def all_frames(self) -> tuple[int, ...]:
        """Frame numbers of the batch."""
        return self.frames_at(tuple(range(self.images or 0)))

    def frames_at(self, indices: tuple[int, ...]) -> tuple[int, ...]:
        """Frame numbers of the images at these indices of the batch."""
        return indices if self.frames is None else tuple(self.frames[index] for index in indices)

    def describe_mask_conflict(self, queries: int, tokens: int, height: int, width: int) -> str | None:
        """Why a mask of the whole image does not fit the tokens of a call; None if it fits."""
        if queries != tokens:
            return f"another patch merges {tokens} tokens into {queries}"
        return self.describe_area(height, width)

    def describe_area(self, height: int, width: int) -> str | None:
        """Why a call is for a part of the image; None if it is for all of it. height, width: of the model's input."""
        if self.size not in (None, (height, width)):
            return (
                f"a conditioning covers an area of {height} x {width} of {self.size[0]} x {self.size[1]} latent pixels"
            )
        return None

    def draw(
        self,
        config: PatchConfig,
        indices: tuple[int, ...],
        pixels: int,
        size: tuple[int, ...],
        device,
    ) -> SharedTokens | None:
        """The shared tokens of this step, drawn once for all layers of a level.

        indices: position in the batch of each image of the call. size: (height, width) of the level in tokens, after
        the number of latent frames in a video model.
        """
        if config.bank is not None and config.cast is None:  # then all images show what the bank holds
            return None
        key = (config, indices, self.phase is Phase.BEFORE, pixels, size, device)
        if key not in self.shared_tokens:
            drawn = draw_shared_tokens(
                config.settings,
                config.cast,
                self.frames_at(indices),
                phase=self.phase,
                step=self.step,
                pixels=pixels,
                tokens=math.prod(size),
                mask=self.token_mask(config, indices, size, torch.device("cpu")),
                apart=config.read_names,
            )
            self.shared_tokens[key] = drawn and drawn.to(device)
        return self.shared_tokens[key]

    def token_mask(self, config: PatchConfig, indices: tuple[int, ...], size: tuple[int, ...], device) -> Tensor | None:
        """bool [rows, tokens] of a level: the tokens that may be shared; None = all."""
        if config.mask is None:
            return None
        key = (config, indices, size, device)
        if key not in self.token_masks:
            if self.frames is not None and len(config.mask) != len(self.frames):
                indices = self.frames_at(indices)  # a mask for each frame of the story
            rows = [index if len(config.mask) > 1 else 0 for index in indices]
            mask = tokens_in_mask(config.mask[rows].cpu(), *size[-2:])
            self.token_masks[key] = mask.repeat(1, math.prod(size[:-2])).to(device)
        return self.token_masks[key]


def batch_indices(extra_options: dict, images: int) -> tuple[int, ...]:
    """Position in the batch of each image of a call; in a context window, the indices that it lists."""
    listed = listed_images(extra_options)
    return tuple(range(images)) if listed is None or len(listed) != images else listed


def listed_images(extra_options: dict) -> tuple[int, ...] | None:
    """The indices that a context window of the host or of AnimateDiff-Evolved lists; None without a window."""
    listed = (extra_options.get("ad_params") or {}).get("sub_idxs")
    if listed is not None:
        return tuple(listed)
    window = extra_options.get("context_window")
    if window is None or window.dim != 0:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    first = [] if anchor is None or anchor < 0 else [anchor]
    return (*first, *window.index_list)


def options_of_cond(options: dict, chunk: int) -> dict:
    """transformer_options for the rows of one cond. chunk: which of those that the call computes."""
    own = {**options, "cond_or_uncond": options["cond_or_uncond"][chunk : chunk + 1]}
    if "uuids" in options:
        own["uuids"] = options["uuids"][chunk : chunk + 1]
    return own
