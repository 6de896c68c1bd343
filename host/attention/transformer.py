"""Consistent Self-Attention on the host's diffusion transformers, as an override of their attention function.

The override gets what the attention kernel gets: queries, keys and values of one sequence of text, image and reference
tokens, projected and rotated. Image queries read their own sequence as before and the shared image tokens of other
frames; all other queries read what they always read.

It is set for one forward pass by a wrapper of apply_model, onto the override that stands there then, so the order in
which packs patch a MODEL makes no difference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.attention.consistent import SharedTokens, layer_shares
from ...core.attention.extended import extended_attention
from ...core.attention.positions import movement
from .families import Family, Forward, block_numbers, blocks_of, choose_blocks
from .sampling_state import KEY, PatchConfig, SamplingState, batch_indices

OVERRIDE = "optimized_attention_override"
ARGUMENTS = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")  # of the host's functions, after heads
REMOVES_A_KEY = -1e4  # the additive mask, or less


class TransformerSeam:
    """A transformer that shares tokens: its row in the table, the chosen blocks, and its positions."""

    def __init__(self, family: Family, network: Any, latent_pixels: int, config: PatchConfig):
        """latent_pixels: how many pixels of an image a latent pixel is wide."""
        self.family, self.network, self.config = family, network, config
        choice = config.patch_range.blocks
        self.chosen = choose_blocks(
            blocks_of(family, network), family.blocks if choice == "auto" else choice, family.name
        )
        self.numbers = block_numbers(family, network)
        self.calls = None if family.calls is None else family.calls(network)
        self.patch = family.patch(network)
        self.pixels = self.patch * latent_pixels
        self.rope = family.rope(network)
        position = config.patch_range.positions
        if position != "same" and self.rope is None:
            raise ValueError(f"positions is {position}, and {family.name} has no rotary positions; same is expected.")
        if position == "reference" and self.rope.reference is None:
            raise ValueError(
                f"positions is reference, and no model of {family.name} was trained with reference images; same, "
                "beside or dimmed is expected."
            )

    def install(self, model: ModelPatcher) -> None:
        """Patch a clone of the model."""
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_model)

    def check(self, model_options: dict) -> None:
        """Later patches are no harm: the override is set when the model runs."""

    def around_model(self, executor, x, t, c_concat=None, context=None, control=None, options=None, **conds):
        """Wraps the model's apply_model."""
        options = dict(options or {})
        state = options.get(KEY) or SamplingState.without_sampler()
        if x.ndim not in (4, 5):
            state.warn_once(f"the model's input has the shape {tuple(x.shape)}, so no tokens are shared.")
            return executor(x, t, c_concat, context, control, options, **conds)
        forward = TransformerAttention(self, state, Forward(x, context, conds), options.get(OVERRIDE))
        options[OVERRIDE] = forward
        out = executor(x, t, c_concat, context, control, options, **conds)
        if not forward.met:
            state.warn_once("no attention call reached this node, because another patch replaces the attention.")
        return out


class Misfit(Exception):
    """An attention call that cannot share tokens; the message says why."""


@dataclass(frozen=True)
class Call:
    """An attention call as the host makes it, and its tensors as views [B, tokens, heads, d].

    kernel: the host's attention function, with what other packs put before it. arrived: q, k, v as they came.
    first, tokens: the image's first token, and how many it has. mask, skip_reshape, kwargs: the host's arguments.
    """

    kernel: Callable
    arrived: tuple[Tensor, Tensor, Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    first: int
    tokens: int
    mask: Tensor | None
    skip_reshape: bool
    kwargs: dict

    @property
    def image(self) -> slice:
        return slice(self.first, self.first + self.tokens)

    @property
    def options(self) -> dict:
        return self.kwargs["transformer_options"]

    def kwargs_of(self, chunk: int, cond: int) -> dict:
        """The host's arguments for rows of one cond."""
        options = {**self.options, "cond_or_uncond": [cond]}
        if "uuids" in options:
            options["uuids"] = options["uuids"][chunk : chunk + 1]
        return {**self.kwargs, "transformer_options": options}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None, **kwargs) -> Tensor:
        """The kernel as `extended_attention` calls it."""
        return self.kernel(q, k, v, heads, mask=bias, **kwargs)

    def attend_plain(self, rows: slice, span: slice, **kwargs) -> Tensor:
        """What the queries of this part of some rows read without this node. [rows, queries, heads, d]"""
        q, k, v = (tensor[rows] for tensor in self.arrived)
        q = q[:, :, span] if self.skip_reshape else q[:, span]
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows]
        heads = self.q.shape[2]
        out = self.kernel(q, k, v, heads, mask=mask, skip_reshape=self.skip_reshape, **kwargs)
        return out.unflatten(-1, (heads, -1))


class TransformerAttention:
    """The override of one forward pass."""

    def __init__(self, seam: TransformerSeam, state: SamplingState, forward: Forward, previous: Callable | None):
        self.seam, self.state, self.forward, self.previous = seam, state, forward, previous
        times = forward.x.shape[2:-2]
        self.grid = (*times, *(-(-side // seam.patch) for side in forward.x.shape[-2:]))
        self.met: set[int] = set()  # blocks whose self-attention was called
        self.calls = 0
        self.own: list[Tensor] | None = None  # the tokens of each row that the text's mask leaves
        position = seam.config.patch_range.positions
        self.move = seam.rope and movement(seam.rope, position, self.grid[-1], forward.x.device)

    def __call__(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        kernel = func if self.previous is None else partial(self.previous, func)
        kwargs |= dict(zip(ARGUMENTS, args, strict=False))
        options = kwargs.get("transformer_options") or {}
        if kwargs.get("mask") is None and self.seam.family.text is not None:
            kwargs["mask"] = self.mask_text(q, kwargs)
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

    def mask_text(self, q: Tensor, kwargs: dict) -> Tensor | None:
        """The mask [B, 1, tokens] of padded texts where the host has none: for the texts alone, and before an image."""
        mask = self.forward.conds.get("attention_mask")
        if mask is None or mask.all() or self.forward.conds.get("ref_latents"):
            return None
        tokens, keys = mask.shape[1], q.shape[2 if kwargs.get("skip_reshape") else 1]
        text, image = self.seam.family.text(self.seam.network, tokens), math.prod(self.grid)
        behind = self.seam.family.behind(self.seam.network, image, {}, self.forward)
        if keys not in (text, text + image + behind) or len(mask) != len(q):
            return None
        bias = torch.zeros(len(q), 1, keys, dtype=q.dtype, device=q.device)
        bias[:, 0, :tokens].masked_fill_(mask.to(q.device) == 0, -torch.inf)
        return bias

    def shares(self, options: dict) -> bool:
        """Whether this call is the self-attention of a block that shares tokens in this step."""
        block = self.block_of(options)
        if block is None or block not in self.seam.chosen:
            return False
        self.state.enter(options)
        return layer_shares(self.seam.config.settings, self.state.phase, self.state.step, block)

    def block_of(self, options: dict) -> int | None:
        """The number of the block whose self-attention this call is; None = it is another attention.

        Where calls name their block, the first of a block is its self-attention: cross-attention and side networks
        come later under the same name.
        """
        if self.seam.calls is not None:
            block = self.seam.calls[self.calls] if self.calls < len(self.seam.calls) else None
            self.calls += 1
        else:
            block = self.seam.numbers.get((options.get("block_type"), options.get("block_index")))
            block = None if block in self.met else block
        if block is not None:
            self.met.add(block)
        return block

    def read(self, kernel, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, **kwargs) -> Call:
        """The call's tensors by head, and where in the sequence the image is. Raises Misfit."""
        kwargs.pop("skip_output_reshape", None)

        def by_head(tensor: Tensor) -> Tensor:
            if skip_reshape:
                return tensor.movedim(1, 2)
            return tensor if tensor.ndim == 4 else tensor.unflatten(-1, (heads, -1))

        arrived, (q, k, v) = (q, k, v), map(by_head, (q, k, v))
        rows, tokens = len(self.forward.x), math.prod(self.grid)
        if q.shape[:3] != k.shape[:3] or q.shape[:3] != v.shape[:3] or len(q) != rows:
            raise Misfit(
                f"another patch rearranges the tokens of a block (queries {tuple(q.shape[:2])}, keys "
                f"{tuple(k.shape[:2])}, images {rows})"
            )
        family, network = self.seam.family, self.seam.network
        before = family.before(network, self.forward)
        first = q.shape[1] - tokens - family.behind(network, tokens, kwargs["transformer_options"], self.forward)
        if first < 0 or before not in (None, first):
            raise Misfit(
                f"a block has {q.shape[1]} tokens, which do not fit an image of "
                f"{' x '.join(map(str, self.grid))} tokens and {'an unknown number' if before is None else before} "
                "before it"
            )
        kwargs["attn_precision"] = attn_precision
        return Call(kernel, arrived, q, k, v, first, tokens, mask, skip_reshape, kwargs)

    def own_tokens(self, call: Call) -> list[Tensor] | None:
        """The tokens of each row that its mask leaves, the same in all blocks; None = all. Raises Misfit."""
        if call.mask is None:
            return None
        if self.own is None:
            mask, keys = call.mask, call.k.shape[1]
            if mask.ndim < 3 or mask.shape[-2:] != (1, keys) or mask.numel() not in (keys, len(call.k) * keys):
                raise Misfit("an attention mask holds a value for every pair of tokens")
            mask = mask.reshape(-1, keys)
            kept, removed = (mask, ~mask) if mask.dtype == torch.bool else (mask == 0, mask <= REMOVES_A_KEY)
            if not (kept | removed).all():
                raise Misfit("an attention mask weights tokens in place of leaving them out")
            self.own = [row.nonzero().flatten() for row in kept.expand(len(call.k), -1)]
        return self.own

    def draw(self, call: Call) -> SharedTokens | None:
        """The tokens that are shared in this step; None = none. Raises Misfit."""
        images = self.images(call)
        latent = self.forward.x.shape[-2:]
        config = self.seam.config
        if config.mask is not None and (
            conflict := self.state.describe_mask_conflict(call.tokens, call.tokens, *latent)
        ):
            raise Misfit(f"{conflict}; the mask does not fit there")
        indices = batch_indices(call.options, images)
        rate = config.settings.sampling_rate  # a transformer has one level
        return self.state.draw(config, indices, self.seam.pixels, self.grid, call.q.device, rate)

    def images(self, call: Call) -> int:
        conds = len(call.options["cond_or_uncond"])
        if len(call.q) % conds:
            raise Misfit(f"{len(call.q)} rows are not {conds} conds of the same images")
        return len(call.q) // conds

    def extend(self, call: Call, shared: SharedTokens, own: list[Tensor] | None) -> Tensor:
        """Attention of the whole sequence. [B, tokens, heads, d]"""
        config, images = self.seam.config, self.images(call)
        mask = self.state.token_mask(config, batch_indices(call.options, images), self.grid, call.q.device)
        out = torch.empty(call.q.shape, dtype=call.q.dtype, device=call.q.device)
        for chunk, cond in enumerate(call.options["cond_or_uncond"]):
            kwargs, rows = call.kwargs_of(chunk, cond), slice(chunk * images, (chunk + 1) * images)
            applies = config.patch_range.apply_to in ("both", "uncond" if cond == 1 else "cond")
            tokens = shared if applies else SharedTokens.none(images)
            image = out[rows, call.image]
            self.extend_images(call, rows, tokens, None if own is None else own[rows], kwargs, image)
            if mask is not None:
                torch.where(mask[..., None, None], image, call.attend_plain(rows, call.image, **kwargs), out=image)
            for span in (slice(0, call.first), slice(call.image.stop, out.shape[1])):
                self.attend_others(call, rows, span, kwargs, out)
        return out

    def attend_others(self, call: Call, rows: slice, span: slice, kwargs: dict, out: Tensor) -> None:
        """Attention of text and reference tokens, as many rows at a time as the limit allows, written into `out`."""
        row_bytes = out[0, span].numel() * out.element_size()
        if not row_bytes:
            return
        at_once = max(1, self.seam.config.patch_range.extra_bytes // (2 * row_bytes))
        for first in range(rows.start, rows.stop, at_once):
            part = slice(first, min(first + at_once, rows.stop))
            out[part, span] = call.attend_plain(part, span, **kwargs)

    def extend_images(self, call: Call, rows: slice, shared: SharedTokens, own, kwargs: dict, out: Tensor) -> None:
        """Attention of the images of one cond, written into `out` [images, tokens, heads, d]."""
        settings, limit = self.seam.config.settings, self.seam.config.patch_range.extra_bytes
        q, k, v = call.q[rows, call.image], call.k[rows], call.v[rows]
        options = dict(own=own, strength=settings.strength, attend=partial(call.attend, **kwargs))
        if self.move is None:
            samples = shared.behind(call.first).samples
            extended_attention(q, k, v, shared.groups, samples, limit=limit, out=out, **options)
            return
        # Half of the limit is for moved keys: the result and, row by row, their float32 parts.
        images, tokens, heads, dim = q.shape
        at_once = max(1, limit // 2 // (tokens * dim * (images * k.element_size() + 16)))
        for first in range(0, heads, at_once):
            part = slice(first, first + at_once)
            lent = k.new_empty(images, tokens, min(at_once, heads - first), dim)
            for row in range(images):
                lent[row] = self.move(k[row, call.image, part])
            extended_attention(
                *(tensor[:, :, part] for tensor in (q, k, v)), shared.groups, shared.samples,
                shared=(lent, v[:, call.image, part]), limit=limit // 2, out=out[:, :, part], **options,
            )  # fmt: skip
