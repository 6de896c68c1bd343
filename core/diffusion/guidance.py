"""Guidance: how predictions under several conditions become one."""

from torch import Tensor


def rescale_guidance(guided: Tensor, cond: Tensor, share: float) -> Tensor:
    """Pull the spread of a guided prediction back to that of the conditional one (arXiv 2305.08891, section 3.4).

    The spread is over everything but the batch: for a clip [B, C, T, H, W] over the whole clip. share: 0 leaves it.
    """
    if not share:
        return guided
    dims = tuple(range(1, guided.ndim))
    matched = guided * (cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return share * matched + (1 - share) * guided
