"""Noise schedules of latent diffusion and the timesteps that a sampler visits.

alpha_bar is the share of the signal in x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise. DynamiCrafter, arXiv
2310.12190, adds zero terminal SNR (arXiv 2305.08891) and a dynamic rescale of the denoised, by a table of timesteps.
"""

import numpy as np
import torch
from torch import Tensor

TIMESTEPS = 1000
LINEAR_START, LINEAR_END = 0.00085, 0.012
RESCALED_TIMESTEPS = 400  # the table of the dynamic rescale falls from 1 over so many timesteps
SPACINGS = ("uniform", "uniform_trailing", "leading")


def alpha_bars(zero_snr: bool, start: float = LINEAR_START, end: float = LINEAR_END, steps: int = TIMESTEPS) -> Tensor:
    """alpha_bar of every timestep, float64 [steps]. The square roots of the betas are evenly spaced.

    zero_snr: see `zero_terminal_snr`.
    """
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    bars = torch.cumprod(1 - betas, 0)
    return zero_terminal_snr(bars) if zero_snr else bars


def zero_terminal_snr(bars: Tensor) -> Tensor:
    """Shift and scale the square roots of alpha_bar so that the last one is exactly 0 and the first stays.

    arXiv 2305.08891, algorithm 1.
    """
    roots = bars.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def scale_table(base: float, steps: int = TIMESTEPS, falling: int = RESCALED_TIMESTEPS) -> Tensor:
    """The dynamic rescale of every timestep, float64 [steps]: over `falling` of them from 1 to `base`, then
    constant. base 1: no rescale."""
    table = torch.linspace(1, base, falling, dtype=torch.float64)
    return torch.cat([table, torch.full((max(0, steps - falling),), base, dtype=torch.float64)])[:steps]


def timesteps(spacing: str, count: int, steps: int = TIMESTEPS) -> list[int]:
    """The timesteps to visit, descending, about `count` of them.

    uniform: every (steps // count)-th, from 1 on; where that does not divide there are more than `count`.
    uniform_trailing: the last timestep and `count` - 1 before it.
    leading: the first `count` of every (steps // count)-th, from 1 on, as StreamingT2V has them.

    The published code leaves the range for some counts (a timestep of 1000 or -1); such timesteps are dropped.
    Raises ValueError for another spacing and for a count that is not in [1, steps].
    """
    if not 1 <= count <= steps:
        raise ValueError(f"steps is {count}; 1 to {steps} is expected.")
    if spacing == "uniform":
        ascending = [t + 1 for t in range(0, steps, steps // count)]
    elif spacing == "leading":
        ascending = [t * (steps // count) + 1 for t in range(count)]
    elif spacing == "uniform_trailing":
        # Rounded half to even, with the floating point arithmetic of the published code.
        ascending = (np.round(np.arange(steps, 0, -steps / count)).astype(int) - 1)[::-1].tolist()
    else:
        raise ValueError(f"spacing {spacing} is unknown; one of {', '.join(SPACINGS)} is expected.")
    return [t for t in reversed(ascending) if 0 <= t < steps]
