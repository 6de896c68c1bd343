"""DynamiCrafter's image projection: from the tokens of an image encoder to tokens for every frame (section 3.2).

It is the Perceiver resampler of IP-Adapter, with learned queries for each frame of the clip.
"""

import torch
from torch import Tensor, nn

from ..attend import Attend, attend_plain
from .config import ResamplerConfig


class PerceiverAttention(nn.Module):
    """Queries attend to the image's tokens and to themselves."""

    def __init__(self, dim: int, heads: int, dim_head: int, operations=nn, attend: Attend = attend_plain, **made):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.attend = heads, attend
        self.norm1, self.norm2 = (operations.LayerNorm(dim, **made) for _ in range(2))
        self.to_q = operations.Linear(dim, inner, bias=False, **made)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **made)
        self.to_out = operations.Linear(inner, dim, bias=False, **made)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """x [B, N, dim], latents [B, M, dim] -> [B, M, dim]."""
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(self.attend(self.to_q(latents), k, v, self.heads))


def feed_forward(dim: int, mult: int, operations=nn, **made) -> nn.Sequential:
    return nn.Sequential(
        operations.LayerNorm(dim, **made),
        operations.Linear(dim, mult * dim, bias=False, **made),
        nn.GELU(),
        operations.Linear(mult * dim, dim, bias=False, **made),
    )


class Resampler(nn.Module):
    """[B, N, embedding_dim] -> [B, queries, output_dim], the tokens of frame 0 first, then those of frame 1, ..."""

    def __init__(self, config: ResamplerConfig, operations=nn, attend: Attend = attend_plain, **made):
        super().__init__()
        self.config = config
        dim = config.dim
        drawn = torch.randn(1, config.queries, dim, device=made.get("device")) / dim**0.5
        self.latents = nn.Parameter(drawn.to(made.get("dtype")))  # 8-bit formats cannot be drawn
        self.proj_in = operations.Linear(config.embedding_dim, dim, **made)
        self.proj_out = operations.Linear(dim, config.output_dim, **made)
        self.norm_out = operations.LayerNorm(config.output_dim, **made)
        self.layers = nn.ModuleList()
        for _ in range(config.depth):
            attention = PerceiverAttention(dim, config.heads, config.dim_head, operations, attend, **made)
            self.layers.append(nn.ModuleList([attention, feed_forward(dim, config.ff_mult, operations, **made)]))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.proj_in(tokens)
        latents = self.latents.to(x).expand(len(x), -1, -1)
        for attention, forward in self.layers:
            latents = latents + attention(x, latents)
            latents = latents + forward(latents)
        return self.norm_out(self.proj_out(latents))
