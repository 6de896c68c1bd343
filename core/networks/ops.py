"""What networks are built of: layers, attention, device and number format in one object, the last argument of each."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attend import Attend, attend_plain


@dataclass(frozen=True)
class Ops:
    """Plain torch by default; the host hands in ComfyUI's layers, which cast and offload weights, and its attention.

    layers: a module or a class with the layers below, under torch's names. attention(q, k, v, heads): on
    [B, N, heads * d]. device, dtype: of the weights; None is torch's default.
    """

    layers: Any = nn
    attention: Attend = attend_plain
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def _layer(self, name: str, *args, **kwargs) -> Any:
        return getattr(self.layers, name)(*args, **kwargs, device=self.device, dtype=self.dtype)

    def Linear(self, *args, **kwargs) -> nn.Linear:
        return self._layer("Linear", *args, **kwargs)

    def Conv1d(self, *args, **kwargs) -> nn.Conv1d:
        return self._layer("Conv1d", *args, **kwargs)

    def Conv2d(self, *args, **kwargs) -> nn.Conv2d:
        return self._layer("Conv2d", *args, **kwargs)

    def Conv3d(self, *args, **kwargs) -> nn.Conv3d:
        return self._layer("Conv3d", *args, **kwargs)

    def GroupNorm(self, *args, **kwargs) -> nn.GroupNorm:
        return self._layer("GroupNorm", *args, **kwargs)

    def LayerNorm(self, *args, **kwargs) -> nn.LayerNorm:
        return self._layer("LayerNorm", *args, **kwargs)

    def parameter(self, value: Tensor) -> nn.Parameter:
        """A weight outside layers, from its float32 value; 8-bit formats cannot be drawn."""
        return nn.Parameter(value.to(self.device, self.dtype))

    def zeros(self, *shape: int) -> nn.Parameter:
        return self.parameter(torch.zeros(shape, device=self.device))

    def normal(self, *shape: int) -> Tensor:
        """Unit normal, float32, for a `parameter`."""
        return torch.randn(shape, device=self.device)


TORCH = Ops()
META = Ops(device="meta")  # shapes without memory
