"""Texts of unequal length in one batch: a network never reads what fills a row up.

A conditioning of a story marks the tokens of each prompt (OWN_TOKENS). Qwen-Image leaves out the rest by its own mask.
The networks here have no mask, or ignore it. During a forward pass, an attention override leaves the rest out.
"""

from collections.abc import Callable
from typing import Any

import comfy.conds
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .aligned_texts import AlignedText
from .attention_override import OVERRIDE, by_name, chained
from .attention_patches import name_of

OWN_TOKENS = "storyreel_own_tokens"  # of a cond: [F, T], which tokens of each row are its prompt's
MASK = "attention_mask"  # the host's, [F, T]

# The host's classes. In their blocks, a sequence is text, then image and reference images.
TEXT_WITHOUT_POSITIONS = {
    "comfy.ldm.chroma.model.Chroma",
    "comfy.ldm.flux.model.Flux",  # its text is padded to 256 or 512; longer prompts differ
    "comfy.ldm.krea2.model.SingleStreamDiT",
}
TEXT_BEFORE_IMAGE = {"comfy.ldm.lumina.model.NextDiT", "comfy.ldm.lumina.model.NextDiTPixelSpace"}


def carry_own_tokens(cond: dict, model: ModelPatcher) -> None:
    """Let the model's forward pass know the prompts' own tokens, if its network is one of these.

    cond: as a guider holds it.
    """
    own, text = cond.get(OWN_TOKENS), cond.get("cross_attn")
    if own is None or not isinstance(text, Tensor) or len(own) != len(text) or own.all():
        return
    if name_of(_uncompiled(model.get_model_object("diffusion_model"))) in TEXT_WITHOUT_POSITIONS | TEXT_BEFORE_IMAGE:
        cond["model_conds"] = {**cond["model_conds"], OWN_TOKENS: comfy.conds.CONDRegular(own)}


def without_padding(cond: Tensor, extras: dict) -> list:
    """A row [1, T, C] of a conditioning and its values, as the prompt alone has them."""
    if OWN_TOKENS not in extras:
        return [cond, extras]
    own = _as_long_as(extras[OWN_TOKENS], cond)
    extras = {key: value for key, value in extras.items() if key != OWN_TOKENS}
    mask = extras.get(MASK)
    if mask is not None and mask.shape == own.shape:
        extras[MASK] = mask[:, own[0]]
        if extras[MASK].all():
            del extras[MASK]
    return [cond[:, own[0]], extras]


def leave_out_padding(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
):  # fmt: skip
    """Wraps a model's apply_model.

    The override is set behind those of all other wrappers, so it is called before them and they get its mask.
    """
    options, own = dict(transformer_options or {}), conds.pop(OWN_TOKENS, None)
    if own is None or c_crossattn is None or len(own) != len(c_crossattn):
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
    network = _uncompiled(executor.class_obj.diffusion_model)
    own = _as_long_as(own, c_crossattn)
    if name_of(network) in TEXT_WITHOUT_POSITIONS:
        options[OVERRIDE] = TextMask(~own, own.shape[1], options.get(OVERRIDE))
        return executor(x, t, c_concat, c_crossattn, control, options, **conds)
    conds.pop(MASK, None)
    text = AlignedText(network, own, x, conds)
    if text.outside.any():
        mask = TextMask(text.outside, text.tokens, options.get(OVERRIDE))
        options[OVERRIDE] = text.moved_padding(mask)
    with text.pad_tokens():
        return executor(x, t, c_concat, text.align(c_crossattn), control, options, **conds)


class TextMask:
    """The attention override of one forward pass that leaves tokens of the text out.

    outside: [B, tokens], which of the first tokens of a sequence no row reads. tokens: of the text, in the calls before
    the network's blocks that have the text alone.
    """

    def __init__(self, outside: Tensor, tokens: int, previous: Callable | None):
        self.outside, self.tokens, self.previous = outside, tokens, previous
        self.masks: dict[Any, Tensor] = {}

    def __call__(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        kernel, kwargs = chained(func, self.previous), by_name(args, kwargs)
        queries, keys = (tensor.shape[2 if kwargs.get("skip_reshape") else 1] for tensor in (q, k))
        in_block = "block_type" in (kwargs.get("transformer_options") or {})
        has_text = keys > self.tokens if in_block else keys == self.tokens
        if has_text and queries == keys and len(k) == len(self.outside):
            kwargs["mask"] = self.add_to(kwargs.get("mask"), q, keys)
        return kernel(q, k, v, heads, **kwargs)

    def add_to(self, mask: Tensor | None, q: Tensor, keys: int) -> Tensor:
        """The mask of a call, and ours."""
        if (keys, q.dtype) not in self.masks:
            ours = torch.zeros(len(self.outside), 1, keys, dtype=q.dtype, device=q.device)
            outside = self.outside.to(q.device)
            ours[:, 0, : outside.shape[1]].masked_fill_(outside, torch.finfo(q.dtype).min)
            self.masks[keys, q.dtype] = ours
        ours = self.masks[keys, q.dtype]
        if mask is None:
            return ours
        ours = ours[:, None] if mask.ndim == 4 else ours
        return mask & (ours == 0) if mask.dtype == torch.bool else torch.minimum(mask, ours.to(mask))


def _as_long_as(own: Tensor, text: Tensor) -> Tensor:
    """The tokens that nodes have put behind the prompts are their own, too. [B, T]"""
    more = max(0, text.shape[1] - own.shape[1])
    return torch.nn.functional.pad(own.to(text.device), (0, more), value=True)[:, : text.shape[1]]


def _uncompiled(network):
    return getattr(network, "_orig_mod", network)
