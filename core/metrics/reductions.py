"""Measures of a video from its optical flow. Frames are [T, C, H, W], flow [T - 1, 2, H, W] in pixels, x first.

MAWE, motion aware warp error (StreamingT2V, arXiv 2403.14773, section 5.1): how badly the motion explains the next
frame, by how much motion there is. Paper and published code differ, and so do their numbers; both are here.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MAWE_SIDE = 720  # of the square that the published code looks at
MAWE_SCALE = 9.5  # of its motion


def mawe_frames(frames: Tensor, side: int = MAWE_SIDE) -> Tensor:
    """Frames 0 to 255 as the published measure sees them: squeezed to a square, bilinear, not antialiased, rounded."""
    return interpolate(frames.float(), (side, side), mode="bilinear", align_corners=False).round()


def push_forward(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Every pixel put where the flow takes it: (frames, filled), filled [T, H, W] True where a pixel arrived.

    frames [T, C, H, W], flow [T, 2, H, W]. To the nearest place; where several arrive, the last in reading order stays.
    Empty places are 0.
    """
    count, channels, height, width = frames.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = (columns.to(flow) + flow[:, 0]).round().long(), (rows.to(flow) + flow[:, 1]).round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    target = torch.where(inside, y * width + x, height * width).flatten(1)  # those outside share one place at the end
    reading_order = torch.arange(height * width, device=frames.device).expand(count, -1)
    source = target.new_full((count, height * width + 1), -1).scatter_reduce(1, target, reading_order, "amax")[:, :-1]
    filled = source >= 0
    gathered = frames.flatten(2).gather(2, source.clamp(min=0)[:, None].expand(-1, channels, -1))
    return (gathered * filled[:, None]).view_as(frames), filled.view(count, height, width)


def warp_errors(frames: Tensor, flow: Tensor) -> Tensor:
    """Mean squared difference of each frame and the one before it pushed forward, over filled places: [T - 1]."""
    pushed, filled = push_forward(frames[:-1], flow)
    squares = (frames[1:] - pushed) ** 2 * filled[:, None]
    return squares.sum((1, 2, 3)) / (filled.sum((1, 2)) * frames.shape[1])


def motions(flow: Tensor) -> Tensor:
    """Mean length of the flow of each pair: [T - 1]."""
    return flow.norm(dim=1).mean((1, 2))


def squared_motions(flow: Tensor) -> Tensor:
    """Mean squared length of the flow of each pair: [T - 1]."""
    return flow.pow(2).sum(1).mean((1, 2))


def mawe_published(errors: Tensor, motion: Tensor) -> float:
    """By the published code: the mean over pairs of error / (9.5 motion).

    Pairs that stand still, by which it divides by zero, are left out here; nan where all do.
    """
    moving = motion > 0
    return (errors[moving] / (MAWE_SCALE * motion[moving])).mean().item()


def mawe_paper(errors: Tensor, squared_motion: Tensor) -> float:
    """By the paper: the mean error over the mean squared length of the flow. nan for a video that stands still."""
    return (errors.mean() / squared_motion.mean()).item()


def flow_deviation(motion: Tensor) -> float:
    """Standard deviation over pairs of the mean length of the flow: high where chunks meet with a jerk."""
    return motion.std(correction=0).item()
