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


def orthogonalize(matrices: Tensor) -> Tensor:
    """Matrices with all their singular values near 1, from .7 to 1.2, by Newton-Schulz iterations. [count, m, n]."""
    first, second, third = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """AdamW whose parameter groups with `muon` set are moved by the orthogonalized momentum of their gradients. Such a
    group has matrices of one shape."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group.get("muon"):
                self._move(group["params"], group["lr"], group["weight_decay"])
        return super().step(closure)

    def _move(self, weights: list[nn.Parameter], rate: float, decay: float) -> None:
        directions = []
        for weight in weights:
            state = self.state[weight]
            if not state:  # AdamW's loading expects a step in every state
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(weight))
            state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            directions.append(weight.grad.lerp(state["momentum"], MOMENTUM))
            weight.grad = None  # AdamW leaves weights without a gradient alone
        for weight, update in zip(weights, orthogonalize(torch.stack(directions)), strict=True):
            weight.mul_(1 - rate * decay)
            weight.add_(update, alpha=-rate * SIZE * max(weight.shape) ** 0.5)


def optimizer_of(matrices: Iterable[nn.Parameter], weights: Iterable[nn.Parameter], rate: float, decay: float) -> Muon:
    """matrices: of the inner layers. weights: all that are trained; of the others, those of layers decay."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    for matrix in matrices:
        by_shape.setdefault(matrix.shape, []).append(matrix)
    known = {id(matrix) for some in by_shape.values() for matrix in some}
    others = [weight for weight in weights if id(weight) not in known]
    groups = [
        *({"params": some, "weight_decay": decay, "muon": True} for some in by_shape.values()),
        {"params": [weight for weight in others if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return Muon(groups, lr=rate, betas=BETAS)
