"""Consistent Self-Attention on the host's UNets, as a patch of attn1.

The patch is an attn1 replacement: queries, keys and values arrive projected, so a borrowed token is projected once.
It stands at the two-part key (stage, id), or at a three-part key where another patch stands already, because the host
runs only the most specific one. What stood there before is called with the extended keys and values.

Nothing is stored in the patch. What a sampling run has to remember lives in a `Run`, put into the run's own copy of
transformer_options when the run begins and gone with it.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..core.attention.consistent import Phase, Settings, Share, draw_share, shares_now, tokens_inside
from ..core.attention.extended import extended_attention
from ..core.attention.sharing import Cast
from .replacements import name_of

KEY = "storyreel_consistent_attention"
NODE = "StoryReelConsistentAttention"


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


@dataclass
class Run:
    """What one sampling run remembers: its schedule, the draws of the current step, and what it has said.

    size: the latents' (height, width), of which an area conditioning shows the model a part; None if nobody said.
    """

    start: float
    switch: float
    end: float
    size: tuple[int, int] | None = None
    said: set[str] = field(default_factory=set)
    sigmas: Tensor | None = None
    step: int = 0
    phase: Phase = Phase.EARLY
    shares: dict[tuple, Share | None] = field(default_factory=dict)
    masks: dict[tuple, Tensor] = field(default_factory=dict)

    @classmethod
    def without_sampler(cls) -> "Run":
        """For a forward pass outside of any sampler: every sigma is early."""
        return cls(start=math.inf, switch=0.0, end=0.0)

    @classmethod
    def begin(cls, reach: Reach, model_sampling, size: tuple[int, int]) -> "Run":
        sigma = model_sampling.percent_to_sigma
        percents = reach.start_percent, reach.switch_percent, reach.end_percent
        return cls(*map(sigma, percents), size=size)

    def enter(self, extra_options: dict) -> None:
        """Take note of the step that a call belongs to. One tensor serves all layers of a forward pass."""
        sigmas = extra_options["sigmas"]
        if sigmas is self.sigmas:
            return
        self.sigmas = sigmas
        sigma = float(sigmas.flatten()[0])
        schedule = extra_options.get("sample_sigmas")
        # A second-order sampler also calls between two sigmas of the schedule: such a call belongs to the earlier one.
        step = 0 if schedule is None else max(0, int((schedule >= sigma * (1 - 1e-5)).sum()) - 1)
        if step != self.step:
            self.shares.clear()
        self.step = step
        if sigma > self.start:
            self.phase = Phase.BEFORE
        elif sigma < self.end:
            self.phase = Phase.AFTER
        else:
            self.phase = Phase.EARLY if sigma > self.switch else Phase.LATE

    def say_once(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            logging.warning("%s: %s", NODE, sentence)

    def against_mask(self, queries: int, tokens: int, height: int, width: int) -> str | None:
        """Why a mask of the whole picture cannot be laid on the tokens of a call, if so."""
        if queries != tokens:
            return f"another patch merges the {tokens} tokens of a level into {queries}"
        if self.size not in (None, (height, width)):
            return f"an area of {height} x {width} of {self.size[0]} x {self.size[1]} latent pixels is drawn by itself"
        return None

    def share(self, rule: "Rule", frames: tuple[int, ...], pixels: int, size: tuple[int, int], device) -> Share | None:
        """Who lends what in this step. The same for all layers of a level, so it is drawn once a step."""
        key = (rule, frames, self.phase is Phase.BEFORE, pixels, size, device)
        if key not in self.shares:
            at = dict(phase=self.phase, step=self.step, pixels=pixels, tokens=size[0] * size[1])
            inside = self.inside(rule, frames, size, torch.device("cpu"))
            drawn = draw_share(rule.settings, rule.cast, frames, **at, inside=inside)
            self.shares[key] = drawn and drawn.to(device)
        return self.shares[key]

    def inside(self, rule: "Rule", frames: tuple[int, ...], size: tuple[int, int], device) -> Tensor | None:
        """bool [rows, tokens] of a level: where sharing is allowed; None = everywhere."""
        if rule.mask is None:
            return None
        key = (rule, frames, size, device)
        if key not in self.masks:
            rows = [frame if len(rule.mask) > 1 else 0 for frame in frames]
            self.masks[key] = tokens_inside(rule.mask[rows].cpu(), *size).to(device)
        return self.masks[key]


@dataclass(frozen=True, eq=False)
class Rule:
    """One application of the node: what to share, where, and who is in which frame.

    mask: [frames or 1, H, W]; tokens outside of it neither lend nor borrow. None = the whole picture.
    """

    settings: Settings
    reach: Reach
    cast: Cast | None
    mask: Tensor | None = None


class SharedAttention:
    """The attn1 replacement of one block (or of one transformer in it)."""

    def __init__(self, rule: Rule, layers: dict[int, int], previous: Callable | None):
        self.rule = rule
        self.layers = layers  # place in the block's transformer -> number of the layer in the network
        self.previous = previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        rule, reach = self.rule, self.rule.reach
        run = extra_options.get(KEY) or Run.without_sampler()
        run.enter(extra_options)
        layer = self.layers[extra_options["block_index"]]
        if not shares_now(rule.settings, run.phase, run.step, layer):
            return self.attend(q, k, v, extra_options)

        kinds = extra_options["cond_or_uncond"]
        height, width = extra_options["activations_shape"][-2:]
        images, tokens = len(q) // len(kinds), height * width
        if len(k) != len(q) or k.shape[1] != tokens or len(q) % len(kinds):
            run.say_once(
                f"another patch rearranges the {height} x {width} tokens of a level, so pictures share none there "
                f"(queries {tuple(q.shape[:2])}, keys {tuple(k.shape[:2])}, expected keys ({len(q)}, {tokens}))."
            )
            return self.attend(q, k, v, extra_options)

        latent_height, latent_width = extra_options["original_shape"][-2:]
        if rule.mask is not None and (obstacle := run.against_mask(q.shape[1], tokens, latent_height, latent_width)):
            run.say_once(f"{obstacle}, so the mask cannot be laid on it and pictures share nothing there.")
            return self.attend(q, k, v, extra_options)
        pixels = 8 * 2 ** round(math.log2(latent_height * latent_width / tokens) / 2)
        frames = frames_of(extra_options, images)
        share = run.share(rule, frames, pixels, (height, width), q.device)
        if share is None:
            return self.attend(q, k, v, extra_options)

        out = torch.empty_like(q)
        for chunk, kind in enumerate(kinds):
            rows = slice(chunk * images, (chunk + 1) * images)
            options = {**extra_options, "cond_or_uncond": [kind]}
            if "uuids" in extra_options:
                options["uuids"] = extra_options["uuids"][chunk : chunk + 1]
            applies = reach.apply_to in ("both", "uncond" if kind == 1 else "cond")
            self.extend(q[rows], k[rows], v[rows], share if applies else Share.nothing(images), options, run, out[rows])
        inside = run.inside(rule, frames, (height, width), q.device)
        if inside is None:
            return out
        plain = self.attend(q, k, v, extra_options)
        return torch.where(inside.repeat(len(kinds), 1)[..., None], out, plain, out=out)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        """Attention as it would be without this patch."""
        if self.previous is not None:
            return self.previous(q, k, v, extra_options)
        return _attend(q, k, v, extra_options["n_heads"], None, extra_options)

    def extend(self, q, k, v, share: Share, extra_options: dict, run: Run, out: Tensor) -> None:
        """Attention of one half of guidance over own and borrowed tokens, written into `out`."""
        foreign = self.previous

        def attend(q, k, v, heads, bias):
            if foreign is None:
                return _attend(q, k, v, heads, bias, extra_options)
            if bias is not None:
                run.say_once(f"{name_of(foreign)} takes no weights, so borrowed tokens count fully there.")
            return foreign(q, k, v, extra_options)

        extended_attention(
            q,
            k,
            v,
            extra_options["n_heads"],
            share.groups,
            share.samples,
            strength=self.rule.settings.strength,
            limit=self.rule.reach.memory,
            attend=attend,
            whole_heads=foreign is not None,
            out=out,
        )


def _attend(q, k, v, heads, mask, extra_options):
    return optimized_attention(
        q, k, v, heads, mask=mask, attn_precision=extra_options["attn_precision"], transformer_options=extra_options
    )


def frames_of(extra_options: dict, images: int) -> tuple[int, ...]:
    """Frame number of each image of a call: of a context window, those that it lists."""
    window = extra_options.get("context_window")
    if window is None or window.dim != 0:
        return tuple(range(images))
    anchor = getattr(window, "causal_anchor_index", None)
    before = [] if anchor is None or anchor < 0 else [anchor]
    return (*before, *window.index_list)
