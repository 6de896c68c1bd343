"""Consistent Self-Attention on the host's UNets, as a patch of attn1.

The patch is an attn1 replacement: queries, keys and values arrive projected, so a borrowed token is projected once.
It stands at the two-part key (stage, id), or at a three-part key where another patch stands already, because the host
runs only the most specific one. What stood there before is called with the extended keys and values.

Nothing is stored in the patch. What a sampling run has to remember lives in a `Run`, put into the run's own copy of
transformer_options when the run begins and gone with it.
"""

import math
from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...core.attention.consistent import Share, shares_now
from ...core.attention.extended import extended_attention
from ..common.attention_patches import name_of
from .sampling_state import KEY, Rule, Run


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
        places = frames_of(extra_options, images)
        share = run.share(rule, places, pixels, (height, width), q.device)
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
        inside = run.inside(rule, places, (height, width), q.device)
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
    """Place in the batch of each image of a call: of a context window, those that it lists."""
    window = extra_options.get("context_window")
    if window is None or window.dim != 0:
        return tuple(range(images))
    anchor = getattr(window, "causal_anchor_index", None)
    before = [] if anchor is None or anchor < 0 else [anchor]
    return (*before, *window.index_list)
