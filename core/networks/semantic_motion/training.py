"""Training a motion predictor in token space, and its error on clips that it never saw, beside interpolation's.

StoryDiffusion (arXiv 2405.01434, equation 8) compares decoded frames; here the tokens themselves are compared, by mean
squared error and cosine, which needs no video model. Only frames that no picture was given for count. The error of a
video model may be added, see `loss`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ...motion import trajectory
from .config import PredictorConfig

TOKENS = "tokens"  # in a file of a clip
LEAST_FRAMES = 3
RESAMPLES = 2000
LEAST_CLIPS = 5  # held out, for a claim: that all of so few are better by chance has a probability of 1 / 32


@dataclass(frozen=True)
class Clip:
    """A clip's tokens in a file: [T, N, D], or [T, S, N, D] where a picture has tokens of its own for each of S
    frames."""

    path: Path
    frames: int

    def read(self, start: int, frames: int) -> Tensor:
        """float32 of some frames."""
        with safe_open(self.path, "pt") as file:
            return file.get_slice(TOKENS)[start : start + frames].float()


@dataclass(frozen=True)
class Example:
    """interpolated, truth: [B, L, N, D]. given: bool [L]. places: each window's clip and its first frame there."""

    interpolated: Tensor
    truth: Tensor
    given: Tensor
    places: tuple[tuple[Clip, int], ...] = ()

    def to(self, device) -> "Example":
        moved = (tensor.to(device) for tensor in (self.interpolated, self.truth, self.given))
        return Example(*moved, self.places)


def split(clips: Sequence[Clip], share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """(to train on, held out): at least one each. Raises ValueError for fewer than two clips."""
    if len(clips) < 2:
        raise ValueError(f"There is {len(clips)} clip; at least 2 are expected, one to train on and one to hold out.")
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = min(max(1, round(share * len(clips))), len(clips) - 1)
    return [clips[i] for i in sorted(order[kept:])], [clips[i] for i in sorted(order[:kept])]


def example(windows: Sequence[Tensor], knots: Sequence[int]) -> Example:
    """Of windows of one length, [L, N, D] or [L, S, N, D] each. knots: the frames that pictures are given for."""
    frames, (interpolated, truth) = len(windows[0]), ([], [])
    times = trajectory.clock(knots, frames)
    for window in windows:
        if window.ndim == 4:
            slots = trajectory.even(frames, window.shape[1])
            truth.append(window[range(frames), slots])
            window = window[:, slots]
        else:
            truth.append(window)
        interpolated.append(trajectory.follow(window[list(knots)], knots, times).expand_as(truth[-1]))
    given = torch.zeros(frames, dtype=torch.bool)
    given[list(knots)] = True
    return Example(torch.stack(interpolated), torch.stack(truth), given)


class Examples:
    """Batches of windows of `frames` frames at most; shorter clips come whole, with others cut to their length."""

    def __init__(self, clips: Sequence[Clip], config: PredictorConfig, frames: int):
        self.clips, self.config, self.frames = clips, config, frames

    def draw(self, count: int, generator: torch.Generator) -> Example:
        def pick(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        first = self.clips[pick(len(self.clips))]
        frames = min(first.frames, self.frames)
        others = [clip for clip in self.clips if clip.frames >= frames]
        chosen = [first, *(others[pick(len(others))] for _ in range(count - 1))]
        places = tuple((clip, pick(clip.frames - frames + 1)) for clip in chosen)
        knots = ends(self.config, frames)
        if self.config.keyframes and pick(2) and frames > 3:  # else nothing would be left to predict
            knots.insert(1, 1 + pick(frames - 2))
        return replace(example([clip.read(start, frames) for clip, start in places], knots), places=places)


def ends(config: PredictorConfig, frames: int) -> list[int]:
    return [0, frames - 1] if config.ends == 2 else [0]


def errors(predicted: Tensor, asked: Example) -> tuple[Tensor, Tensor]:
    """(mean squared error, 1 - mean cosine of the tokens) over the frames that nothing was given for."""
    found, truth = (tokens[:, ~asked.given].float() for tokens in (predicted, asked.truth))
    return F.mse_loss(found, truth), 1 - F.cosine_similarity(found, truth, dim=-1).mean()


def loss(
    network: nn.Module, asked: Example, cosine: float = 1.0, beside: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """cosine: weight of the second error. beside: what else to minimise, of the predicted tokens [B, L, N, D]."""
    predicted = network(asked.interpolated, asked.given)
    squared, turned = errors(predicted, asked)
    value = squared + cosine * turned
    return value if beside is None else value + beside(predicted)


@dataclass(frozen=True)
class Figures:
    """On held-out clips. gain: by how much less the squared error is than interpolation's, as a share of that; low and
    high: its 95 % interval over clips. cosine: mean of the tokens."""

    clips: int
    mse: float
    mse_interpolation: float
    cosine: float
    cosine_interpolation: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def beats(self) -> bool:
        return self.clips >= LEAST_CLIPS and self.gain_low > 0

    @property
    def told(self) -> str:
        verdict = "beats interpolation" if self.beats else "does NOT beat interpolation"
        if self.clips < LEAST_CLIPS:
            verdict = f"is not known to beat interpolation, for which {LEAST_CLIPS} clips must be held out,"
        clips = f"{self.clips} held-out clip{'s' if self.clips > 1 else ''}"
        return (
            f"It {verdict} on {clips}: squared error {self.mse:.4g} against {self.mse_interpolation:.4g}, "
            f"a gain of {self.gain:.1%} (95 %: {self.gain_low:.1%} to {self.gain_high:.1%}); cosine {self.cosine:.4f} "
            f"against {self.cosine_interpolation:.4f}."
        )


def measure(network: nn.Module, clips: Sequence[Clip], config: PredictorConfig, frames: int) -> Figures:
    return summary(errors_of(network, clips, config, frames))


@torch.no_grad()
def errors_of(network: nn.Module, clips: Sequence[Clip], config: PredictorConfig, frames: int) -> Tensor:
    """float64 [clips, 4]: both errors of held-out clips, as predicted and as interpolated. A clip is cut into windows,
    and counts once, however long it is."""
    device, rows = next(network.parameters()).device, []
    for clip in clips:
        length, row = min(clip.frames, frames), []
        for start in range(0, clip.frames - length + 1, length):
            asked = example([clip.read(start, length)], ends(config, length)).to(device)
            found = errors(network(asked.interpolated, asked.given), asked), errors(asked.interpolated, asked)
            row.append([error.item() for pair in found for error in pair])
        rows.append(torch.tensor(row, dtype=torch.float64).mean(dim=0))
    return torch.stack(rows)


def summary(table: Tensor) -> Figures:
    """Of `errors_of` clips."""
    squared, turned, squared_before, turned_before = table.mean(dim=0).tolist()
    low, high = interval(table[:, 0], table[:, 2])
    gain = _gain(table[:, 0], table[:, 2]).item()
    return Figures(len(table), squared, squared_before, 1 - turned, 1 - turned_before, gain, low, high)


def interval(found: Tensor, before: Tensor) -> tuple[float, float]:
    """Bootstrap over clips: where 95 % of the gains lie."""
    picks = torch.randint(len(found), (RESAMPLES, len(found)), generator=torch.Generator().manual_seed(0))
    gains = _gain(found[picks], before[picks])
    low, high = gains.quantile(torch.tensor([0.025, 0.975], dtype=gains.dtype)).tolist()
    return low, high


def _gain(found: Tensor, before: Tensor) -> Tensor:
    """Where nothing moves there is nothing to gain."""
    found, before = found.mean(dim=-1), before.mean(dim=-1)
    return (before - found) / before.clamp(min=torch.finfo(before.dtype).tiny)
