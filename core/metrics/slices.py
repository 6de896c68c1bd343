"""X-T slices: one row of every frame, one under the other. Smooth motion draws smooth lines, a seam breaks them."""

import torch
from torch import Tensor

from .metric import Metric


class Slice(Metric):
    """Keeps the row at a height from 0, the top, to 1, in 8 bits."""

    name = "slice"

    def __init__(self, height: float = 0.5):
        super().__init__()
        self._height = height
        self._width = 0
        # one block that grows: small ones of their own would lie scattered among the frames' memory, and keep the
        # allocator from using it again
        self._rows = bytearray()

    def update(self, frame: Tensor) -> None:
        self._width = frame.shape[1]
        row = (frame[round(self._height * (len(frame) - 1))] * 255).round().to(torch.uint8)
        self._rows += row.numpy().tobytes()

    def image(self) -> Tensor:
        """IMAGE [1, T, W, 3]: time runs down."""
        return torch.frombuffer(self._rows, dtype=torch.uint8).view(1, -1, self._width, 3).float() / 255

    def results(self) -> dict:
        return {"row_at": self._height}
