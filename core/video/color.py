"""Colors that stay those of one frame: statistics of each channel carried over, as Reinhard et al. 2001 do ("Color
Transfer between Images"), here in RGB and over a whole chunk, so that nothing flickers.
"""

from torch import Tensor

LEAST_SPREAD = 1e-4  # of a channel that is flat, which is moved and not stretched


def match_colors(frames: Tensor, anchor: Tensor, share: float) -> Tensor:
    """Frames [T, H, W, 3] with mean and spread of each channel moved towards those of anchor [N, H', W', 3].

    share: 0 gives `frames` themselves, 1 the anchor's statistics.
    """
    if not share:
        return frames
    mean, spread = _statistics(frames)
    wanted_mean, wanted_spread = _statistics(anchor)
    moved = (frames - mean) * (wanted_spread / spread.clamp(min=LEAST_SPREAD)) + wanted_mean
    return frames.lerp(moved, share).clamp(0, 1)


def _statistics(frames: Tensor) -> tuple[Tensor, Tensor]:
    flat = frames.flatten(0, -2)
    return flat.mean(0), flat.std(0, correction=0)
