"""The attention that networks and shared attention call: torch's own by default."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

# attend(q, k, v, heads, bias) on [B, tokens, heads * d]; bias is [queries, keys], added to the logits, or None.
Attend = Callable[..., Tensor]


def attend_plain(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Attention by torch's own kernel. q [B, N, h*d], k and v [B, M, h*d], bias broadcast to [N, M] -> [B, N, h*d]."""
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return rearrange(out, "b h n d -> b n (h d)")
