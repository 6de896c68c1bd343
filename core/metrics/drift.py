"""How far a video's colors and sharpness wander off from an anchor, and how fast."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .metric import Metric

SPAN = 10  # frames that a drift is given for
END = 8  # frames that a video ends with
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
COLORS: tuple[str, ...] = ("red", "green", "blue")
QUALITIES: tuple[str, ...] = ("brightness", "contrast", "sharpness")


def luma(frame: Tensor) -> Tensor:
    """[..., H, W, 3] -> [..., H, W]."""
    return frame @ frame.new_tensor(LUMA)


def look(frame: Tensor) -> dict[str, float]:
    """Figures of one frame [H, W, 3] from 0 to 1: mean red, green, blue; brightness and contrast, the mean and standard
    deviation of its luma; sharpness, the standard deviation of the Laplacian over the contrast, which therefore does
    not count as sharpness."""
    gray = luma(frame)
    edges = conv2d(gray[None, None], gray.new_tensor(LAPLACIAN)[None, None])
    contrast = gray.std(correction=0).item()
    sharpness = edges.std(correction=0).item() / contrast if contrast else 0.0
    values = [*frame.mean((0, 1)).tolist(), gray.mean().item(), contrast, sharpness]
    return dict(zip((*COLORS, *QUALITIES), values, strict=True))


def slope(values: Sequence[float]) -> float:
    """Of the straight line through one value a frame, by least squares: change a frame."""
    y = torch.tensor(values, dtype=torch.float64)
    x = torch.arange(len(y), dtype=torch.float64)
    x -= x.mean()
    return (x @ (y - y.mean()) / (x @ x)).item()


class Drift(Metric):
    """Compares every frame with an anchor [H, W, 3] of the same size.

    Series, in percent: red, green, blue of the full range; brightness, contrast, sharpness of the anchor's own.
    """

    name = "drift"

    def __init__(self, anchor: Tensor):
        super().__init__(*COLORS, *QUALITIES)
        self._anchor = look(anchor)

    def update(self, frame: Tensor) -> None:
        seen, anchor = look(frame), self._anchor
        colors = {name: 100 * (seen[name] - anchor[name]) for name in COLORS}
        qualities = {name: 100 * (seen[name] / anchor[name] - 1) if anchor[name] else None for name in QUALITIES}
        self.record(**colors, **qualities)

    def results(self) -> dict:
        """{name: {"in_10_frames": slope, "at_the_end": mean of the last frames}}; None for what the anchor has not."""

        def summed_up(values: list[float | None]) -> dict | None:
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                return None
            end = known[-END:]
            return {f"in_{SPAN}_frames": SPAN * slope(known), "at_the_end": sum(end) / len(end)}

        return {name: summed_up(values) for name, values in self.per_frame.items()}
