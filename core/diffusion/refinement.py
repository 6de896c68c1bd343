"""The noise levels of StreamingT2V's refinement by MS-Vid2Vid (arXiv 2403.14773, section 4.3; SDEdit, 2108.01073).

x_t = alpha_t x_0 + sigma_t noise with alpha_t^2 + sigma_t^2 = 1 and velocity as the prediction. Samplers work in units
of x_0: k = sigma_t / alpha_t.
"""

import math

import torch
from torch import Tensor

TIMESTEPS = 1000
LOG_SNR = 15.0  # from that to its negative
SCALES = 2.0, 4.0  # of the cosine schedule's shift, at the noisiest and at the cleanest
START = 599  # the timestep that a clip is noised to


def log_snr(steps: int = TIMESTEPS) -> Tensor:
    """log(alpha_t^2 / sigma_t^2) of every timestep, float64 [steps], falling.

    Two shifted cosine schedules (arXiv 2301.11093), the one for the cleanest timesteps and the other for the noisiest,
    interpolated.
    """
    share = torch.linspace(1, 0, steps, dtype=torch.float64)
    low, high = (math.atan(math.exp(-half / 2)) for half in (LOG_SNR, -LOG_SNR))
    cosine = -2 * torch.log(torch.tan(high + share * (low - high)))
    shifts = [2 * math.log(1 / scale) for scale in SCALES]
    return cosine + share * shifts[0] + (1 - share) * shifts[1]


def signal_and_noise(steps: int = TIMESTEPS) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t of every timestep, float64 [steps]."""
    snr = log_snr(steps)
    return torch.sigmoid(snr).sqrt(), torch.sigmoid(-snr).sqrt()


def refine_timesteps(count: int, start: int = START) -> list[float]:
    """The timesteps to evaluate the model at, descending from `start` and not integers.

    They are spaced for one more step, and the last one, close to no noise, is dropped. The floating point arithmetic is
    that of the published code, which for some counts (6, not 30) gives one more.

    Raises ValueError for a start outside [1, TIMESTEPS) and for a count above it.
    """
    if not 1 <= start < TIMESTEPS:
        raise ValueError(f"start_timestep is {start}; 1 to {TIMESTEPS - 1} is expected.")
    if not 1 <= count <= start:
        raise ValueError(f"steps is {count} from timestep {start}; 1 to {start} is expected.")
    spacing = (start + 1) / (count + 1)
    found = math.ceil((start + 1) / spacing)
    return [start - number * spacing for number in range(found - 1)]


def refine_sigmas(count: int, start: int = START) -> Tensor:
    """k of `refine_timesteps` and the 0 behind them, float64."""
    logs = -log_snr() / 2
    times = torch.tensor(refine_timesteps(count, start), dtype=torch.float64)
    before = times.floor().long()
    log_k = torch.lerp(logs[before], logs[times.ceil().long()], times - before)
    return torch.cat([log_k.exp(), torch.zeros(1, dtype=torch.float64)])
