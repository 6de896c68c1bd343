"""One attention call of a transformer: how its tensors are laid out, and what its mask leaves."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .sampling_state import Misfit, options_of_cond

REMOVES_A_KEY = -1e4  # the additive mask, or less


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

    def kwargs_of(self, chunk: int) -> dict:
        """The host's arguments for the rows of one cond."""
        return {**self.kwargs, "transformer_options": options_of_cond(self.options, chunk)}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None, **kwargs) -> Tensor:
        """The kernel as `extended_attention` calls it, with tensors laid out as they came: kernels of other packs may
        know only that."""
        if self.skip_reshape:
            q, k, v = (tensor.unflatten(-1, (heads, -1)).movedim(2, 1) for tensor in (q, k, v))
        return self.kernel(q, k, v, heads, mask=bias, skip_reshape=self.skip_reshape, **kwargs)

    def attend_plain(self, rows: slice, span: slice, **kwargs) -> Tensor:
        """What the queries of this part of some rows read without this node. [rows, queries, heads, d]"""
        q, k, v = (tensor[rows] for tensor in self.arrived)
        q = q[:, :, span] if self.skip_reshape else q[:, span]
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows]
        heads = self.q.shape[2]
        out = self.kernel(q, k, v, heads, mask=mask, skip_reshape=self.skip_reshape, **kwargs)
        return out.unflatten(-1, (heads, -1))


def by_head(tensor: Tensor, heads: int, skip_reshape: bool) -> Tensor:
    """[B, heads, tokens, d] where the host skips its reshape, else [B, tokens, heads * d] or its own view of that, as a
    view [B, tokens, heads, d]."""
    if skip_reshape:
        return tensor.movedim(1, 2)
    return tensor if tensor.ndim == 4 else tensor.unflatten(-1, (heads, -1))


def unmasked_tokens(mask: Tensor, rows: int, keys: int) -> list[Tensor]:
    """The indices [m] of the keys that a mask leaves, for each row. Raises Misfit for a mask that does more."""
    if mask.ndim < 3 or mask.shape[-2:] != (1, keys) or mask.numel() not in (keys, rows * keys):
        raise Misfit("an attention mask holds a value for every pair of tokens")
    mask = mask.reshape(-1, keys)
    kept, removed = (mask, ~mask) if mask.dtype == torch.bool else (mask == 0, mask <= REMOVES_A_KEY)
    if not (kept | removed).all():
        raise Misfit("an attention mask weights tokens in place of leaving them out")
    return [row.nonzero().flatten() for row in kept.expand(rows, -1)]
