"""X-T slices: one row of every frame, one under the other. Smooth motion draws smooth lines, a seam breaks them."""

import torch
from torch import Tensor

from .watching import Watcher


class Slice(Watcher):
    """Keeps the row at a height from 0, the top, to 1, in 8 bits."""

    name = "slice"

    def __init__(self, height: float = 0.5):
        super().__init__()
        self._height = height
        self._rows: list[Tensor] = []

    def see(self, frame: Tensor) -> None:
        self._rows.append((frame[round(self._height * (len(frame) - 1))] * 255).round().to(torch.uint8))

    def picture(self) -> Tensor:
        """IMAGE [1, T, W, 3]: time runs down."""
        return torch.stack(self._rows)[None].float() / 255

    def figures(self) -> dict:
        return {"row_at": self._height}
