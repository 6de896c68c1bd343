"""Attention by plain products, which on a CPU and at these sizes beats the fused kernels, in bfloat16 above all."""

from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs) -> Tensor:
    """softmax(q k / sqrt(d) + mask) v. q [B, N, heads d], k and v [B, M, heads d], mask [N, M] -> [B, N, heads d]."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = (logits if mask is None else logits + mask).softmax(-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)
