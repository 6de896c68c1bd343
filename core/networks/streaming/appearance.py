"""APM, the appearance preservation module (section 4.2): an anchor frame's image tokens, mixed into the text."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import CrossAttention
from ..ops import TORCH, Ops


class TokenExpander(nn.Module):
    """The image embedding of one or more anchor frames, [B, dim] or [B, frames, dim] -> tokens [B, count, dim]."""

    def __init__(self, dim: int = 1024, inner: int = 1280, count: int = 16, ops: Ops = TORCH):
        super().__init__()
        self.count = count
        self.context_embedding = nn.Sequential(ops.Linear(dim, inner), nn.SiLU(), ops.Linear(inner, count * dim))

    def forward(self, embeds: Tensor) -> Tensor:
        if embeds.ndim == 3:
            embeds = embeds.mean(1)
        return rearrange(self.context_embedding(embeds), "b (n d) -> b n d", n=self.count)


class AppearanceAttention(CrossAttention):
    """Cross-attention to text + SiLU(alpha) LayerNorm(conv([text; image])).

    The convolution's channels are the tokens, and it slides over the features. alpha is initialized to 0: no image.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        text_tokens: int = 77,
        image_tokens: int = 16,
        ops: Ops = TORCH,
    ):
        super().__init__(dim, context_dim, heads, ops)
        self.alpha = ops.zeros()
        self.conv = ops.Conv1d(text_tokens + image_tokens, text_tokens, 3, padding=1)
        self.conv_ln = ops.LayerNorm(context_dim)

    def mix(self, text: Tensor, image: Tensor, strength: float = 1.0) -> Tensor:
        """[B, text_tokens, D] and [B, image_tokens, D] -> [B, text_tokens, D]."""
        mixed = self.conv_ln(self.conv(torch.cat([text, image], dim=1)))
        return text + strength * F.silu(self.alpha.to(mixed)) * mixed

    def forward(self, x: Tensor, text: Tensor, image: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """x [(B T), N, C]. image None, or strength 0: attention to the text alone."""
        return super().forward(x, self.mix(text, image, strength) if image is not None and strength else text)
