"""The attention override of one forward pass of a transformer.

Image queries read their own sequence as before and the shared image tokens of other frames; all other queries read what
they always read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.attention.consistent import SharedTokens, layer_shares
from ...core.attention.extended import extended_attention
from ...core.attention.positions import Rope, movement
from ...core.attention.shares import Shares
from ..common.attention_override import by_name, chained
from .families import Family, Forward
from .sampling_state import Misfit, PatchConfig, SamplingState, batch_indices
from .transformer_call import Call, by_head, unmasked_tokens


@dataclass(frozen=True, eq=False)
class SharingNetwork:
    """A network that shares tokens, and what its row in the table says of it.

    chosen: the blocks that share. numbers: of the blocks, by what their calls name; calls: the block of each call, for
    hosts in which they name none. patch: side of a token in latent pixels; pixels: in pixels of the image.
    """

    family: Family
    network: Any
    config: PatchConfig
    chosen: set[int]
    numbers: dict[tuple[str, int], int]
    calls: list[int | None] | None
    patch: int
    pixels: int
    rope: Rope | None


class TransformerAttention:
    """The override of one forward pass."""

    def __init__(self, sharing: SharingNetwork, state: SamplingState, forward: Forward, previous: Callable | None):
        self.sharing, self.config = sharing, sharing.config
        self.state, self.forward, self.previous = state, forward, previous
        times = forward.x.shape[2:-2]
        self.grid = (*times, *(-(-side // sharing.patch) for side in forward.x.shape[-2:]))
        self.tokens = math.prod(self.grid)  # of an image
        self.met: set[int] = set()  # blocks whose self-attention was called
        self.calls = 0
        self.block = -1  # whose attention is called
        positions, device = self.config.patch_range.positions, forward.x.device
        self.move = None if sharing.rope is None else movement(sharing.rope, positions, self.grid[-1], device)
        self.masked_by: Tensor | None = None
        self.own: list[Tensor] | None = None  # the tokens of each row that this mask leaves

    @torch.compiler.disable  # else every draw of tokens is compiled anew
    def __call__(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        kernel, kwargs = chained(func, self.previous), by_name(args, kwargs)
        options = kwargs.get("transformer_options") or {}
        shared = None
        if self.shares(options):
            try:
                call = self.read(kernel, q, k, v, heads, **kwargs)
                own = self.own_tokens(call)
                shared = self.draw(call)
            except Misfit as misfit:
                self.state.warn_once(f"{misfit}, so no tokens are shared there.")
        if shared is None:
            return kernel(q, k, v, heads, **kwargs)
        out = self.extend(call, shared, own)
        return out.movedim(1, 2) if kwargs.get("skip_output_reshape") else out.flatten(2)

    def shares(self, options: dict) -> bool:
        """Whether this call is the self-attention of a block that shares tokens in this step."""
        block = self.block_of(options)
        if block is None or block not in self.sharing.chosen:
            return False
        self.block = block
        self.state.enter(options)
        return layer_shares(self.config.settings, self.state.phase, self.state.step, block)

    def block_of(self, options: dict) -> int | None:
        """The number of the block whose self-attention this call is; None = it is another attention.

        Where calls name their block, the first of a block is its self-attention: cross-attention and side networks
        come later under the same name.
        """
        calls, index = self.sharing.calls, options.get("block_index", -1)
        if index < 0 and calls is not None:
            block = calls[self.calls] if self.calls < len(calls) else None
            self.calls += 1
        else:
            block = self.sharing.numbers.get((options.get("block_type", "double"), index))
            block = None if block in self.met and not self.sharing.family.every_call else block
        if block is not None:
            self.met.add(block)
            self.state.blocks_met.add(block)
        return block

    def read(self, kernel, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, **kwargs) -> Call:
        """The call's tensors by head, and where in the sequence the image is. Raises Misfit."""
        kwargs.pop("skip_output_reshape", None)
        arrived, rows = (q, k, v), len(self.forward.x)
        q, k, v = (by_head(tensor, heads, skip_reshape) for tensor in arrived)
        family, network = self.sharing.family, self.sharing.network
        before = family.before(network, self.forward)
        behind = family.behind(network, self.tokens, kwargs["transformer_options"], self.forward)
        keys = k.shape[1]
        # The host's cache of reference images hands on their keys without their queries.
        fits = q.shape[1] in (keys, keys - behind) and k.shape[:3] == v.shape[:3] and q.shape[2] == k.shape[2]
        if not fits or not len(q) == len(k) == rows:
            raise Misfit(
                f"another patch rearranges the tokens of a block (queries {tuple(q.shape[:2])}, keys "
                f"{tuple(k.shape[:2])}, images {rows})"
            )
        first = keys - self.tokens - behind
        if first < 0 or before not in (None, first):
            raise Misfit(
                f"a block has {keys} tokens, and {(before or 0) + self.tokens + behind} are expected before the "
                f"image, in it ({' x '.join(map(str, self.grid))}) and behind it"
            )
        kwargs["attn_precision"] = attn_precision
        return Call(kernel, arrived, q, k, v, first, self.tokens, mask, skip_reshape, kwargs)

    def own_tokens(self, call: Call) -> list[Tensor] | None:
        """The tokens of each row that its mask leaves; None = all. Raises Misfit."""
        if call.mask is None:
            return None
        if call.mask is not self.masked_by:  # one mask for all blocks, as a rule
            self.own, self.masked_by = unmasked_tokens(call.mask, len(call.k), call.k.shape[1]), call.mask
        return self.own

    def draw(self, call: Call) -> SharedTokens | None:
        """The tokens that are shared in this step; None = none. Raises Misfit."""
        images = self.images(call)
        latent = self.forward.x.shape[-2:]
        if self.config.mask is not None:
            if conflict := self.state.describe_mask_conflict(self.tokens, self.tokens, *latent):
                raise Misfit(f"{conflict}; the mask does not fit there")
        indices = batch_indices(call.options, images)
        return self.state.draw(self.config, indices, self.sharing.pixels, self.grid, call.q.device)

    def images(self, call: Call) -> int:
        conds = len(call.options["cond_or_uncond"])
        if len(call.q) % conds:
            raise Misfit(f"{len(call.q)} rows are not {conds} conds of the same images")
        images = len(call.q) // conds
        if conflict := self.state.describe_other_images(batch_indices(call.options, images), call.options):
            raise Misfit(conflict)
        return images

    def extend(self, call: Call, shared: SharedTokens, own: list[Tensor] | None) -> Tensor:
        """Attention of the whole sequence. [B, tokens, heads, d]"""
        config, images = self.config, self.images(call)
        indices = batch_indices(call.options, images)
        mask = self.state.token_mask(config, indices, self.grid, call.q.device)
        out = torch.empty(call.q.shape, dtype=call.q.dtype, device=call.q.device)
        for chunk, cond in enumerate(call.options["cond_or_uncond"]):
            kwargs, rows = call.kwargs_of(chunk), slice(chunk * images, (chunk + 1) * images)
            tokens = shared if self.state.applies_to(config, cond) else SharedTokens.none(images)
            image, found = out[rows, call.image], self.state.attention_map
            shares = None if found is None else Shares.empty(images, 0, mask)
            self.extend_images(call, rows, tokens, None if own is None else own[rows], kwargs, image, shares)
            if found is not None and shares is not None:
                found.add(self.state.step, self.block, cond, indices, shares.sums)
            if mask is not None:
                torch.where(mask[..., None, None], image, call.attend_plain(rows, call.image, **kwargs), out=image)
            for span in (slice(0, call.first), slice(call.image.stop, out.shape[1])):
                self.attend_others(call, rows, span, kwargs, out)
            if own is not None:
                self.keep_unshared(call, rows, tokens, kwargs, out[rows])
        return out

    def keep_unshared(self, call: Call, rows: slice, shared: SharedTokens, kwargs: dict, out: Tensor) -> None:
        """Rows whose image reads no other, under their mask as without this node, written into `out`."""
        pairs = zip(shared.groups, shared.samples, strict=True)
        reading = {row for group, sample in pairs if any(map(len, sample)) for row in group.targets}
        unshared = [row for row in range(len(out)) if row not in reading]
        if unshared:  # all rows at once, since kernels may round otherwise for one
            out[unshared] = call.attend_plain(rows, slice(None), **kwargs)[unshared]

    def attend_others(self, call: Call, rows: slice, span: slice, kwargs: dict, out: Tensor) -> None:
        """Attention of text and reference tokens, as many rows at a time as the limit allows, written into `out`."""
        row_bytes = out[0, span].numel() * out.element_size()
        if not row_bytes:
            return
        at_once = max(1, self.config.patch_range.extra_bytes // (2 * row_bytes))
        for first in range(rows.start, rows.stop, at_once):
            part = slice(first, min(first + at_once, rows.stop))
            out[part, span] = call.attend_plain(part, span, **kwargs)

    def extend_images(
        self, call: Call, rows: slice, shared: SharedTokens, own, kwargs: dict, out: Tensor, shares: Shares | None
    ) -> None:
        """Attention of the images of one cond, written into `out` [images, tokens, heads, d], and its shares."""
        settings, limit = self.config.settings, self.config.patch_range.extra_bytes
        q, k, v = call.q[rows, call.image], call.k[rows], call.v[rows]
        extend = partial(
            extended_attention,
            own=own,
            strength=settings.strength,
            attend=partial(call.attend, **kwargs),
            maskless=self.previous is not None,
        )
        if self.move is None:
            samples = shared.behind(call.first).samples
            extend(q, k, v, shared.groups, samples, limit=limit, out=out)
            if shares is not None:
                shares.add(q, k, shared.groups, samples, own=own, strength=settings.strength, limit=limit)
            return
        # Half of the limit is for moved keys: the result and, row by row, their float32 parts.
        images, tokens, heads, dim = q.shape
        at_once = max(1, limit // 2 // (tokens * dim * (images * k.element_size() + 16)))
        for first in range(0, heads, at_once):
            part = slice(first, first + at_once)
            moved = k.new_empty(images, tokens, min(at_once, heads - first), dim)
            for row in range(images):
                moved[row] = self.move(k[row, call.image, part])
            groups, samples, sources = shared.groups, shared.samples, (moved, v[:, call.image, part])
            q_part, k_part, v_part, out_part = (tensor[:, :, part] for tensor in (q, k, v, out))
            extend(q_part, k_part, v_part, groups, samples, shared=sources, limit=limit // 2, out=out_part)
            if shares is not None:
                of_part, strength = shares.of_heads(q_part.shape[2], heads), settings.strength
                of_part.add(q_part, k_part, groups, samples, shared=moved, own=own, strength=strength, limit=limit // 2)
