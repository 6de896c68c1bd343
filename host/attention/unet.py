"""Consistent Self-Attention on the host's UNets, as a patch of attn1.

The patch is an attn1 replacement: queries, keys and values arrive projected, so a shared token is projected once.
It is registered at the two-part key (stage, id), or at a three-part key if another patch is registered there, because
the host runs only the most specific one. The patch that was registered before is called with the extended keys and
values.

The patch stores nothing. The state of a run is a `SamplingState` in the run's own copy of transformer_options.
"""

from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.attention.attention_map import MapLayer
from ...core.attention.consistent import SharedTokens, layer_shares
from ...core.attention.extended import extended_attention
from ...core.attention.shares import Shares
from ..common.attention_override import OVERRIDE
from ..common.attention_patches import keys_for, name_of, standing, warn_overwritten
from .bank_model import check_model
from .bank_reading import BankReader
from .regions import Queries, only_rows, split_reads
from .sampling_state import KEY, NODE, Misfit, PatchConfig, SamplingState, options_of_cond
from .unet_blocks import Layer, layers_in, self_attention_layers
from .unet_call import UNetCall


class UNetSeam:
    """A UNet that shares tokens: the chosen blocks, and the replacements in them."""

    def __init__(self, model: ModelPatcher, config: PatchConfig):
        if config.patch_range.positions != "same":
            raise ValueError(
                f"positions is {config.patch_range.positions}, and a UNet has no rotary positions; same is expected."
            )
        layers = self_attention_layers(model)
        self.config = config
        self.layers = layers_in(layers, config.patch_range)
        self.blocks: dict[tuple[str, int], dict[int, Layer]] = {}
        for layer in self.layers:
            self.blocks.setdefault(layer.block, {})[layer.index] = layer
        if config.bank is not None:
            check_model(config.bank, model, layers)
        self.keys = []

    def install(self, model: ModelPatcher) -> None:
        """Patch a clone of the model."""
        before = dict(standing(model.model_options, "attn1"))
        self.keys = [key for block, layers in self.blocks.items() for key in keys_for(block, layers, before)]
        for key in self.keys:
            patch = SharedAttention(self.config, self.blocks[key[:2]], before.get(key))
            model.set_model_attn1_replace(patch, *key)

    def reader(self, guider) -> BankReader | None:
        """Of the bank in a sampling run; None without a bank."""
        bank = self.config.bank
        return (
            None
            if bank is None
            else BankReader.of(bank, self.config.settings, guider, {layer.number: layer for layer in self.layers})
        )

    def map_layers(self) -> dict[int, MapLayer]:
        """The layers of an attention map."""
        return {
            layer.number: MapLayer(f"{layer.block[0]} {layer.block[1]}.{layer.index}", f"{layer.pixels} pixels a token")
            for layer in self.layers
        }

    def describe_run(self, state: SamplingState) -> str | None:
        """Why a finished run read nothing of its bank, for reasons that are unknown before it; None if it did."""
        if state.reader is None or state.reader.used or not any(self.config.bank_images(state.all_frames)):
            return None
        return (
            "no layer of this run found tokens in the bank; it was recorded in other blocks, with another cfg (1 skips "
            "uncond) or apply_to, or with a higher layer probability than here."
        )

    def check(self, model_options: dict) -> None:
        """Warn about patches of other packs that stand in place of ours when sampling begins."""
        warn_overwritten(NODE, model_options, "attn1", SharedAttention, self.keys, self.config.node)


class SharedAttention:
    """The attn1 replacement of one block (or of one transformer in it)."""

    def __init__(self, config: PatchConfig, layers: dict[int, Layer], previous: Callable | None):
        self.config = config
        self.layers = layers  # by index in the block's transformer
        self.previous = previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        config = self.config
        state = extra_options.get(KEY) or SamplingState.without_sampler()
        state.enter(extra_options)
        layer = self.layers[extra_options["block_index"]]
        shares = layer_shares(config.settings, state.phase, state.step, layer.number)
        reader = state.reader
        if reader is not None and not reader.reads(state.phase, state.step, layer.number):
            reader = None
        if not shares and reader is None:
            return self.attend(q, k, v, extra_options)
        try:
            call = UNetCall.read(layer, q, k, extra_options, state)
            if config.mask is not None:
                if conflict := state.describe_mask_conflict(q.shape[1], call.tokens, *call.latent_size):
                    raise Misfit(f"{conflict}; the mask does not fit there")
        except Misfit as misfit:
            state.warn_once(f"{misfit}, so no tokens are shared there.")
            return self.attend(q, k, v, extra_options)
        size = (call.height, call.width)
        shared = state.draw(config, call.indices, call.pixels, size, q.device) if shares else None
        stored = () if reader is None else config.bank_images(state.frames_at(call.indices))
        if shared is None and not any(stored):
            return self.attend(q, k, v, extra_options)

        out, mask = torch.empty_like(q), state.token_mask(config, call.indices, size, q.device)
        for chunk, cond in enumerate(call.conds):
            rows = slice(chunk * call.images, (chunk + 1) * call.images)
            applies, options = state.applies_to(config, cond), options_of_cond(extra_options, chunk)
            tokens = shared if shared is not None and applies else SharedTokens.none(call.images)
            pairs = {}
            if reader is not None and applies and any(stored):
                heads = extra_options["n_heads"]
                pairs = reader.read(state.phase, state.step, layer.number, cond, stored, heads, k)
                tokens = tokens.with_stored([tuple(place for place in row if place in pairs) for row in stored])
            found = state.attention_map
            shares = None if found is None else Shares.empty(call.images, len(found.stored), mask)
            self.extend_parts(q[rows], k[rows], v[rows], tokens, pairs, options, state, call, out[rows], shares)
            if found is not None and shares is not None:
                found.add(state.step, layer.number, cond, call.indices, shares.sums)
        if mask is None:
            return out
        plain = self.attend(q, k, v, extra_options)
        return torch.where(mask.repeat(len(call.conds), 1)[..., None], out, plain, out=out)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        """Attention without this patch."""
        if self.previous is not None:
            return self.previous(q, k, v, extra_options)
        return _attend(q, k, v, extra_options["n_heads"], None, extra_options)

    def extend(
        self,
        q,
        k,
        v,
        shared: SharedTokens,
        stored: dict,
        extra_options: dict,
        state: SamplingState,
        out: Tensor,
        shares: Shares | None,
    ) -> None:
        """Attention of cond or uncond over own, shared and stored tokens, written into `out`, and its shares."""
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
            stored=stored,
            strength=self.config.settings.strength,
            limit=self.config.patch_range.extra_bytes,
            attend=attend,
            whole_heads=previous is not None,
            maskless=previous is None and OVERRIDE in extra_options,
            out=out,
        )
        if shares is not None:
            limit = self.config.patch_range.extra_bytes
            strength = 1.0 if previous is not None else self.config.settings.strength
            shares.add(q, k, shared.groups, shared.samples, stored=stored, strength=strength, limit=limit)

    def extend_parts(
        self,
        q,
        k,
        v,
        shared: SharedTokens,
        stored: dict,
        options: dict,
        state: SamplingState,
        call: UNetCall,
        out: Tensor,
        shares: Shares | None,
    ) -> None:
        """The same, where an image with regions reads part by part: each the tokens of the characters that it shows."""
        parts = self.parts(q, shared, stored, state, call)
        whole = [row for row in range(call.images) if row not in parts]
        if whole:
            of_whole = only_rows(shared, whole) if parts else shared
            self.extend(q, k, v, of_whole, stored, options, state, out, shares)
        for row in parts:
            for tokens, read in parts[row]:
                own = q[row, tokens]
                found = out.new_empty(call.images, *own.shape)
                of_part = None if shares is None else shares.of_queries(tokens, len(own), q.shape[1])
                self.extend(own.expand(found.shape), k, v, read, stored, options, state, found, of_part)
                out[row, tokens] = found[row]

    def parts(
        self, q: Tensor, shared: SharedTokens, stored: dict, state: SamplingState, call: UNetCall
    ) -> dict[int, list[tuple[Queries, SharedTokens]]]:
        """{row: its parts, each with what it reads} of the images whose regions limit what they read."""
        if state.regions is None or not state.regions.known:
            return {}
        if not stored and not any(group.sources for group in shared.groups):
            return {}
        if conflict := state.describe_mask_conflict(q.shape[1], call.tokens, *call.latent_size):
            state.warn_once(f"{conflict}; the regions of characters do not fit there.")
            return {}
        frames, size = state.frames_at(call.indices), (call.height, call.width)
        return split_reads(state.regions, self.config, shared, frames, call.indices, size, q.device)


def _attend(q, k, v, heads, mask, extra_options):
    return optimized_attention(
        q, k, v, heads, mask=mask, attn_precision=extra_options["attn_precision"], transformer_options=extra_options
    )
