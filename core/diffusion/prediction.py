"""Conversions between model predictions: x_0, noise epsilon and velocity v of x = signal x_0 + noise epsilon.

signal is sqrt(alpha_bar), noise sqrt(1 - alpha_bar); numbers, or tensors that broadcast. v = signal epsilon - noise x_0
(arXiv 2202.00512, appendix D).
"""

from torch import Tensor

Share = float | Tensor


def x0_of_v(x: Tensor, v: Tensor, signal: Share, noise: Share) -> Tensor:
    return signal * x - noise * v


def x0_of_epsilon(x: Tensor, epsilon: Tensor, signal: Share, noise: Share) -> Tensor:
    return (x - noise * epsilon) / signal


def v_of_x0(x: Tensor, x0: Tensor, signal: Share, noise: Share) -> Tensor:
    return (signal * x - x0) / noise


def epsilon_of_x0(x: Tensor, x0: Tensor, signal: Share, noise: Share) -> Tensor:
    return (x - signal * x0) / noise
