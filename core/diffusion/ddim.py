"""DDIM, arXiv 2010.02502, with the dynamic rescale of DynamiCrafter: one step as a function.

The rescale is an ordinary schedule in other units: with k = x / (sqrt(alpha_bar) scale), sigma = sqrt((1 - alpha_bar) /
alpha_bar) / scale and denoised = x_0 / scale, DDIM of eta 0 is Euler's method in sigma.
"""

import torch
from torch import Tensor


def ddim_step(
    x: Tensor,
    x0: Tensor,
    epsilon: Tensor,
    noise: Tensor | None,
    *,
    alpha_bar: float,
    alpha_bar_next: float,
    rescale: float = 1.0,
    eta: float = 0.0,
) -> Tensor:
    """x of the next timestep (equation 12).

    x0, epsilon: predicted from x, [B, ...]. noise: unit normal, needed if eta > 0.
    rescale: scale of the next timestep over that of this one, applied to x0.

    With eta 1 and zero signal the factor of epsilon is exactly 0, but may be rounded below it: it is clamped at 0.
    """
    sigma = eta * ((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)) ** 0.5
    direction = max(1 - alpha_bar_next - sigma**2, 0.0) ** 0.5
    x = alpha_bar_next**0.5 * rescale * x0 + direction * epsilon
    return x if noise is None or not sigma else x + sigma * noise


def blend_known(x: Tensor, known: Tensor, keep: Tensor) -> Tensor:
    """x, replaced by `known` where `keep` is 1, as the published code does before each step."""
    return torch.lerp(x, known, keep)
