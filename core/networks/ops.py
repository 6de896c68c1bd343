"""What networks are built of: layers, attention, device and number format in one object, the last argument of each."""

from dataclasses import dataclass
from functools import partialmethod
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

    def _layer(self, name: str, *args, **kwargs) -> nn.Module:
        return getattr(self.layers, name)(*args, **kwargs, device=self.device, dtype=self.dtype)

    Linear = partialmethod(_layer, "Linear")
    Conv1d = partialmethod(_layer, "Conv1d")
    Conv2d = partialmethod(_layer, "Conv2d")
    Conv3d = partialmethod(_layer, "Conv3d")
    GroupNorm = partialmethod(_layer, "GroupNorm")
    LayerNorm = partialmethod(_layer, "LayerNorm")

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
