"""What Consistent Self-Attention remembers of a sampling run, and what it tells the user about it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.attention.consistent import Phase, Settings, Share, draw_share, tokens_inside
from ...core.attention.schedule import Percents, Phases, phases_of, step_of
from ...core.attention.sharing import Cast
from ..common import messages

KEY = "storyreel_consistent_attention"
NODE = "Consistent Self-Attention"


@dataclass(frozen=True)
class Reach:
    """Where in the network, when in the sampling, and on which half of guidance tokens are shared.

    Percents are the host's: 0 is the start of sampling, 1 its end. `switch_percent` divides early from late.
    memory: bytes that a layer may take beyond plain attention; with a mask, one more result of plain attention.
    """

    blocks: str = "up"
    start_percent: float = 0.0
    end_percent: float = 1.0
    switch_percent: float = 0.4
    apply_to: str = "both"
    memory: int = 64 << 20

    @property
    def percents(self) -> Percents:
        return Percents(self.start_percent, self.switch_percent, self.end_percent)


@dataclass(frozen=True, eq=False)
class Rule:
    """One application of the node: what to share, where, and who is in which frame.

    mask: [frames or 1, H, W]; tokens outside of it neither lend nor borrow. None = the whole picture.
    node: that its messages appear on, None where none is shown.
    """

    settings: Settings
    reach: Reach
    cast: Cast | None
    mask: Tensor | None = None
    node: str | None = None


@dataclass
class Run:
    """What one sampling run remembers: its schedule, the draws of the current step, and what it has said.

    frames: the frame of the story that each image of the batch is; None: they are the story from its first frame on.
    size: the latents' (height, width), of which an area conditioning shows the model a part; None if nobody said.
    step: the noise level that names the current step, see `step_of`.
    kinds: halves of guidance that the model was asked for, 0 = cond.
    """

    phases: Phases
    node: str | None = None
    frames: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    said: set[str] = field(default_factory=set)
    sigmas: Tensor | None = None
    step: float | None = None
    phase: Phase = Phase.EARLY
    shares: dict[tuple, Share | None] = field(default_factory=dict)
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    kinds: set[int] = field(default_factory=set)

    @classmethod
    def without_sampler(cls) -> "Run":
        """For a forward pass outside of any sampler: every sigma is early."""
        return cls(Phases(start=math.inf, switch=0.0, end=0.0))

    @classmethod
    def begin(cls, rule: Rule, model_sampling, sigmas: Tensor, size: tuple[int, int], frames=None) -> "Run":
        phases = phases_of(rule.reach.percents, model_sampling.percent_to_sigma, sigmas.tolist())
        return cls(phases, rule.node, frames, size)

    def enter(self, extra_options: dict) -> None:
        """Take note of the step that a call belongs to. One tensor serves all layers of a forward pass."""
        sigmas = extra_options["sigmas"]
        if sigmas is self.sigmas:
            return
        self.sigmas = sigmas
        self.kinds.update(extra_options["cond_or_uncond"])
        sigma = float(sigmas.flatten()[0])
        schedule = extra_options.get("sample_sigmas")
        step = step_of(sigma, [] if schedule is None else schedule.tolist())
        if step != self.step:
            self.shares.clear()
        self.step = step
        self.phase = self.phases.at(sigma)

    def say_once(self, sentence: str) -> None:
        """Show a sentence on the node, and in the log."""
        if sentence not in self.said:
            self.said.add(sentence)
            messages.warn(f"{NODE}: {sentence}", self.node)

    def describe_nothing_shared(self, rule: Rule) -> str | None:
        """Why a run that is over shared nothing, if it did not, for a reason that shows on the way alone."""
        half = {"cond": 0, "uncond": 1}.get(rule.reach.apply_to)
        if half is not None and self.kinds and half not in self.kinds:
            return (
                f"apply_to is {rule.reach.apply_to}, and this run has no such half (cfg 1 leaves uncond out), so "
                "nothing was shared; choose both."
            )
        # One mask for all, or one for each of at least two.
        least = 1 if rule.mask is not None and len(rule.mask) == 1 else 2
        if self.masks and all(inside.any(1).sum() < least for inside in self.masks.values()):
            return "the mask covers half of no token, in two frames at least, so nothing was shared; paint more white."
        return None

    def frames_at(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Frame numbers of the images at these places of the batch."""
        return places if self.frames is None else tuple(self.frames[place] for place in places)

    def against_mask(self, queries: int, tokens: int, height: int, width: int) -> str | None:
        """Why a mask of the whole picture cannot be laid on the tokens of a call, if so."""
        if queries != tokens:
            return f"another patch merges the {tokens} tokens of a level into {queries}"
        if self.size not in (None, (height, width)):
            return f"an area of {height} x {width} of {self.size[0]} x {self.size[1]} latent pixels is drawn by itself"
        return None

    def share(self, rule: Rule, places: tuple[int, ...], pixels: int, size: tuple[int, int], device) -> Share | None:
        """Who lends what in this step. The same for all layers of a level, so it is drawn once a step.

        places: of the call's images in the batch.
        """
        key = (rule, places, self.phase is Phase.BEFORE, pixels, size, device)
        if key not in self.shares:
            at = dict(phase=self.phase, step=self.step, pixels=pixels, tokens=size[0] * size[1])
            inside = self.inside(rule, places, size, torch.device("cpu"))
            drawn = draw_share(rule.settings, rule.cast, self.frames_at(places), **at, inside=inside)
            self.shares[key] = drawn and drawn.to(device)
        return self.shares[key]

    def inside(self, rule: Rule, places: tuple[int, ...], size: tuple[int, int], device) -> Tensor | None:
        """bool [rows, tokens] of a level: where sharing is allowed; None = everywhere."""
        if rule.mask is None:
            return None
        key = (rule, places, size, device)
        if key not in self.masks:
            if self.frames is not None and len(rule.mask) != len(self.frames):
                places = self.frames_at(places)  # a mask for each frame of the story
            rows = [place if len(rule.mask) > 1 else 0 for place in places]
            self.masks[key] = tokens_inside(rule.mask[rows].cpu(), *size).to(device)
        return self.masks[key]
