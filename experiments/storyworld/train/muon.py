"""Muon for the matrices of a transformer, AdamW for all else (Jordan et al. 2024; arXiv 2502.16982, section 2.2).

torch.optim.Muon multiplies in bfloat16, which takes longer than a whole step on processors without it.
"""

from collections.abc import Iterable

import torch
from storyreel.core.training import BETAS
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of Newton-Schulz
SIZE = 0.4  # of an update's values, as a share of the learning rate


def orthogonalize(matrix: Tensor) -> Tensor:
    """The matrix with all its singular values near 1, from .7 to 1.2, by Newton-Schulz iterations. [m, n]."""
    first, second, third = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = first * x + (second * gram + third * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.AdamW):
    """AdamW whose parameter groups with `muon` set are moved by the orthogonalized momentum of their gradients."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"] if group.get("muon") else ():
                state = self.state[weight]
                if not state:  # AdamW's loading expects a step in every state
                    state.update(step=torch.zeros(()), momentum=torch.zeros_like(weight))
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                update = orthogonalize(weight.grad.lerp(momentum, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * SIZE * max(weight.shape) ** 0.5)
                weight.grad = None  # AdamW leaves weights without a gradient alone
        return super().step(closure)


def optimizer_of(matrices: Iterable[nn.Parameter], weights: Iterable[nn.Parameter], rate: float, decay: float) -> Muon:
    """matrices: of the inner layers. weights: all that are trained; of the others, those of layers decay."""
    inner = list(matrices)
    known = {id(weight) for weight in inner}
    others = [weight for weight in weights if id(weight) not in known]
    groups = [
        {"params": inner, "weight_decay": decay, "muon": True},
        {"params": [weight for weight in others if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return Muon(groups, lr=rate, betas=BETAS)
