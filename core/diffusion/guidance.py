"""Rescale of guidance."""

from torch import Tensor


def rescale_guidance(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Rescale a guided prediction to the standard deviation of the conditional one (arXiv 2305.08891, section 3.4).

    The standard deviation is over all dimensions but the batch: for [B, C, T, H, W] over the whole clip. amount: 0 for
    none, 1 for all.
    """
    if not amount:
        return guided
    dims = tuple(range(1, guided.ndim))
    matched = guided * (cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return amount * matched + (1 - amount) * guided
