"""Consistent Self-Attention on the host's UNets, as a patch of attn1.

The patch is an attn1 replacement: queries, keys and values arrive projected, so a shared token is projected once.
It is registered at the two-part key (stage, id), or at a three-part key if another patch is registered there, because
the host runs only the most specific one. The patch that was registered before is called with the extended keys and
values.

The patch stores nothing. The state of a run is a `SamplingState` in the run's own copy of transformer_options.
"""

import math
from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...core.attention.consistent import SharedTokens, layer_shares
from ...core.attention.extended import extended_attention
from ..common.attention_patches import name_of
from .sampling_state import KEY, PatchConfig, SamplingState


class SharedAttention:
    """The attn1 replacement of one block (or of one transformer in it)."""

    def __init__(self, config: PatchConfig, layers: dict[int, int], previous: Callable | None):
        self.config = config
        self.layers = layers  # index in the block's transformer -> number of the layer in the network
        self.previous = previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        config, patch_range = self.config, self.config.patch_range
        state = extra_options.get(KEY) or SamplingState.without_sampler()
        state.enter(extra_options)
        layer = self.layers[extra_options["block_index"]]
        if not layer_shares(config.settings, state.phase, state.step, layer):
            return self.attend(q, k, v, extra_options)

        conds = extra_options["cond_or_uncond"]
        height, width = extra_options["activations_shape"][-2:]
        images, tokens = len(q) // len(conds), height * width
        if len(k) != len(q) or k.shape[1] != tokens or len(q) % len(conds):
            state.warn_once(
                f"another patch rearranges the {height} x {width} tokens of a level, so no tokens are shared there "
                f"(queries {tuple(q.shape[:2])}, keys {tuple(k.shape[:2])}, expected keys ({len(q)}, {tokens}))."
            )
            return self.attend(q, k, v, extra_options)

        latent_size = extra_options["original_shape"][-2:]
        if config.mask is not None and (conflict := state.describe_mask_conflict(q.shape[1], tokens, *latent_size)):
            state.warn_once(f"{conflict}; the mask does not fit there, so no tokens are shared there.")
            return self.attend(q, k, v, extra_options)
        pixels = 8 * 2 ** round(math.log2(math.prod(latent_size) / tokens) / 2)
        indices = batch_indices(extra_options, images)
        shared = state.draw(config, indices, pixels, (height, width), q.device)
        if shared is None:
            return self.attend(q, k, v, extra_options)

        out = torch.empty_like(q)
        for chunk, cond in enumerate(conds):
            rows = slice(chunk * images, (chunk + 1) * images)
            options = {**extra_options, "cond_or_uncond": [cond]}
            if "uuids" in extra_options:
                options["uuids"] = extra_options["uuids"][chunk : chunk + 1]
            applies = patch_range.apply_to in ("both", "uncond" if cond == 1 else "cond")
            tokens_of_cond = shared if applies else SharedTokens.none(images)
            self.extend(q[rows], k[rows], v[rows], tokens_of_cond, options, state, out[rows])
        mask = state.token_mask(config, indices, (height, width), q.device)
        if mask is None:
            return out
        plain = self.attend(q, k, v, extra_options)
        return torch.where(mask.repeat(len(conds), 1)[..., None], out, plain, out=out)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        """Attention without this patch."""
        if self.previous is not None:
            return self.previous(q, k, v, extra_options)
        return _attend(q, k, v, extra_options["n_heads"], None, extra_options)

    def extend(self, q, k, v, shared: SharedTokens, extra_options: dict, state: SamplingState, out: Tensor) -> None:
        """Attention of cond or uncond over own and shared tokens, written into `out`."""
        previous, heads = self.previous, extra_options["n_heads"]

        def attend(q, k, v, heads, bias):
            if previous is None:
                return _attend(q, k, v, heads, bias, extra_options)
            if bias is not None:
                state.warn_once(f"{name_of(previous)} does not support weights, so strength has no effect there.")
            return previous(q, k, v, extra_options)

        q, k, v, out = (tensor.unflatten(-1, (heads, -1)) for tensor in (q, k, v, out))
        extended_attention(
            q,
            k,
            v,
            shared.groups,
            shared.samples,
            strength=self.config.settings.strength,
            limit=self.config.patch_range.extra_bytes,
            attend=attend,
            whole_heads=previous is not None,
            out=out,
        )


def _attend(q, k, v, heads, mask, extra_options):
    return optimized_attention(
        q, k, v, heads, mask=mask, attn_precision=extra_options["attn_precision"], transformer_options=extra_options
    )


def batch_indices(extra_options: dict, images: int) -> tuple[int, ...]:
    """Position in the batch of each image of a call; in a context window, the indices that it lists."""
    window = extra_options.get("context_window")
    if window is None or window.dim != 0:
        return tuple(range(images))
    anchor = getattr(window, "causal_anchor_index", None)
    first = [] if anchor is None or anchor < 0 else [anchor]
    return (*first, *window.index_list)
