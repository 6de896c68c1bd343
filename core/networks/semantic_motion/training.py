"""Training a motion predictor on tokens, and its error on held-out clips, compared with interpolation's.

StoryDiffusion (arXiv 2405.01434, equation 8) compares decoded frames. Here the tokens themselves are compared, by mean
squared error and cosine, which needs no video model; the error of one can be added, see `loss`. Only the frames between
keyframes count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ...motion import trajectory
from .config import PredictorConfig

TOKENS = "tokens"  # key in the file of a clip
MIN_FRAMES = 3
MIN_CLIPS = 5  # held out, for a claim: if neither is better, all of so few are by chance with a probability of 1 / 32
RESAMPLES = 2000


@dataclass(frozen=True)
class TokenClip:
    """The tokens of a clip in a file: [T, N, D], or [T, S, N, D] if an image has different tokens for each of S
    frames."""

    path: Path
    frames: int

    def read(self, start: int, frames: int) -> Tensor:
        """float32, of some frames."""
        with safe_open(self.path, "pt") as file:
            return file.get_slice(TOKENS)[start : start + frames].float()


@dataclass(frozen=True)
class TokenBatch:
    """interpolated, target: [B, L, N, D]. is_keyframe: bool [L]. windows: each one's clip and its first frame there."""

    interpolated: Tensor
    target: Tensor
    is_keyframe: Tensor
    windows: tuple[tuple[TokenClip, int], ...] = ()

    def to(self, device) -> "TokenBatch":
        interpolated, target, is_keyframe = self.interpolated, self.target, self.is_keyframe
        return TokenBatch(interpolated.to(device), target.to(device), is_keyframe.to(device), self.windows)


def split_clips(
    clips: Sequence[TokenClip], validation_split: float, seed: int
) -> tuple[list[TokenClip], list[TokenClip]]:
    """(training clips, validation clips): at least one each. Raises ValueError for fewer than two clips."""
    if len(clips) < 2:
        raise ValueError(
            f"There is {len(clips)} clip; at least 2 are expected, one for training and one for validation."
        )
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = min(max(1, round(validation_split * len(clips))), len(clips) - 1)
    return [clips[i] for i in sorted(order[held_out:])], [clips[i] for i in sorted(order[:held_out])]


def make_batch(windows: Sequence[Tensor], keyframe_indices: Sequence[int]) -> TokenBatch:
    """From windows of equal length, [L, N, D] or [L, S, N, D] each."""
    frames, (interpolated, target) = len(windows[0]), ([], [])
    times = trajectory.timing(keyframe_indices, frames)
    for window in windows:
        if window.ndim == 4:
            slots = trajectory.spread_evenly(frames, window.shape[1])
            target.append(window[range(frames), slots])
            window = window[:, slots]
        else:
            target.append(window)
        keyframes = window[list(keyframe_indices)]
        interpolated.append(trajectory.interpolate(keyframes, keyframe_indices, times).expand_as(target[-1]))
    is_keyframe = trajectory.keyframe_mask(keyframe_indices, frames)
    return TokenBatch(torch.stack(interpolated), torch.stack(target), is_keyframe)


class TokenBatchSampler:
    """Random batches of windows of at most `frames` frames. A shorter clip is used whole, with windows of its length
    from other clips."""

    def __init__(self, clips: Sequence[TokenClip], config: PredictorConfig, frames: int):
        self.clips, self.config, self.frames = clips, config, frames

    def sample(self, batch_size: int, generator: torch.Generator) -> TokenBatch:
        def pick(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        first = self.clips[pick(len(self.clips))]
        frames = min(first.frames, self.frames)
        others = [clip for clip in self.clips if clip.frames >= frames]
        chosen = [first, *(others[pick(len(others))] for _ in range(batch_size - 1))]
        windows = tuple((clip, pick(clip.frames - frames + 1)) for clip in chosen)
        keyframe_indices = end_indices(self.config, frames)
        if self.config.keyframes and pick(2) and frames > 3:  # shorter windows would have nothing left to predict
            keyframe_indices.insert(1, 1 + pick(frames - 2))
        batch = make_batch([clip.read(start, frames) for clip, start in windows], keyframe_indices)
        return replace(batch, windows=windows)


def end_indices(config: PredictorConfig, frames: int) -> list[int]:
    return [0, frames - 1] if config.ends == 2 else [0]


def token_errors(predicted: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """(mean squared error, 1 - mean cosine of the tokens) over the frames between keyframes."""
    predicted, target = (tokens[:, ~batch.is_keyframe].float() for tokens in (predicted, batch.target))
    return F.mse_loss(predicted, target), 1 - F.cosine_similarity(predicted, target, dim=-1).mean()


def loss(
    network: nn.Module,
    batch: TokenBatch,
    cosine_loss_weight: float = 1.0,
    extra_loss: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """extra_loss: a function of the predicted tokens [B, L, N, D] whose value is added."""
    predicted = network(batch.interpolated, batch.is_keyframe)
    squared, cosine = token_errors(predicted, batch)
    value = squared + cosine_loss_weight * cosine
    return value if extra_loss is None else value + extra_loss(predicted)


@dataclass(frozen=True)
class ValidationResult:
    """On held-out clips. gain: how much lower the squared error is than interpolation's, as a share of that; gain_low,
    gain_high: its 95 % interval over clips. cosine: mean over the tokens."""

    clips: int
    mse: float
    mse_interpolation: float
    cosine: float
    cosine_interpolation: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def beats_interpolation(self) -> bool:
        return self.clips >= MIN_CLIPS and self.gain_low > 0

    @property
    def summary(self) -> str:
        verdict = "beats interpolation" if self.beats_interpolation else "does NOT beat interpolation"
        if self.clips < MIN_CLIPS:
            verdict = f"is not known to beat interpolation, which takes {MIN_CLIPS} held-out clips,"
        clips = f"{self.clips} held-out clip{'s' if self.clips > 1 else ''}"
        return (
            f"It {verdict} on {clips}: squared error {self.mse:.4g} against {self.mse_interpolation:.4g}, "
            f"a gain of {self.gain:.1%} (95 %: {self.gain_low:.1%} to {self.gain_high:.1%}); cosine {self.cosine:.4f} "
            f"against {self.cosine_interpolation:.4f}."
        )


def validate(network: nn.Module, clips: Sequence[TokenClip], config: PredictorConfig, frames: int) -> ValidationResult:
    return summarize(clip_errors(network, clips, config, frames))


@torch.no_grad()
def clip_errors(network: nn.Module, clips: Sequence[TokenClip], config: PredictorConfig, frames: int) -> Tensor:
    """float64 [clips, 4]: both errors of the prediction, and both of interpolation. A clip is cut into windows, and
    counts once, however long it is."""
    device, rows = next(network.parameters()).device, []
    for clip in clips:
        length, row = min(clip.frames, frames), []
        for start in range(0, clip.frames - length + 1, length):
            batch = make_batch([clip.read(start, length)], end_indices(config, length)).to(device)
            predicted = network(batch.interpolated, batch.is_keyframe)
            pairs = token_errors(predicted, batch), token_errors(batch.interpolated, batch)
            row.append([error.item() for pair in pairs for error in pair])
        rows.append(torch.tensor(row, dtype=torch.float64).mean(dim=0))
    return torch.stack(rows)


def summarize(errors: Tensor) -> ValidationResult:
    """Of `clip_errors`."""
    squared, cosine, squared_interpolation, cosine_interpolation = errors.mean(dim=0).tolist()
    gain = _gain(errors[:, 0], errors[:, 2]).item()
    interval = gain_interval(errors[:, 0], errors[:, 2])
    means = squared, squared_interpolation, 1 - cosine, 1 - cosine_interpolation
    return ValidationResult(len(errors), *means, gain, *interval)


def gain_interval(predicted: Tensor, interpolated: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of the gain over clips, from the errors of both [clips]."""
    picks = torch.randint(len(predicted), (RESAMPLES, len(predicted)), generator=torch.Generator().manual_seed(0))
    gains = _gain(predicted[picks], interpolated[picks])
    low, high = gains.quantile(torch.tensor([0.025, 0.975], dtype=gains.dtype)).tolist()
    return low, high


def _gain(predicted: Tensor, interpolated: Tensor) -> Tensor:
    """0 where nothing moves."""
    predicted, interpolated = predicted.mean(dim=-1), interpolated.mean(dim=-1)
    return (interpolated - predicted) / interpolated.clamp(min=torch.finfo(interpolated.dtype).tiny)
