"""DynamiCrafter's image projection: from the tokens of an image encoder to tokens for every frame (section 3.2).

It is the Perceiver resampler of IP-Adapter, with learned queries for each frame of the clip.
"""

import torch
from einops import repeat
from torch import Tensor, nn

from ..ops import TORCH, Ops
from .config import ResamplerConfig


class PerceiverAttention(nn.Module):
    """Queries attend to the image's tokens and to themselves."""

    def __init__(self, dim: int, heads: int, dim_head: int, ops: Ops = TORCH):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.attend = heads, ops.attention
        self.norm1, self.norm2 = (ops.LayerNorm(dim) for _ in range(2))
        self.to_q = ops.Linear(dim, inner, bias=False)
        self.to_kv = ops.Linear(dim, 2 * inner, bias=False)
        self.to_out = ops.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """x [B, N, dim], latents [B, M, dim] -> [B, M, dim]."""
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(self.attend(self.to_q(latents), k, v, self.heads))


def feed_forward(dim: int, mult: int, ops: Ops = TORCH) -> nn.Sequential:
    return nn.Sequential(
        ops.LayerNorm(dim),
        ops.Linear(dim, mult * dim, bias=False),
        nn.GELU(),
        ops.Linear(mult * dim, dim, bias=False),
    )


class Resampler(nn.Module):
    """[B, N, embedding_dim] -> [B, queries, output_dim], the tokens of frame 0 first, then those of frame 1, ..."""

    def __init__(self, config: ResamplerConfig, ops: Ops = TORCH):
        super().__init__()
        self.config = config
        dim = config.dim
        self.latents = ops.parameter(ops.normal(1, config.queries, dim) / dim**0.5)
        self.proj_in = ops.Linear(config.embedding_dim, dim)
        self.proj_out = ops.Linear(dim, config.output_dim)
        self.norm_out = ops.LayerNorm(config.output_dim)
        self.layers = nn.ModuleList()
        for _ in range(config.depth):
            attention = PerceiverAttention(dim, config.heads, config.dim_head, ops)
            self.layers.append(nn.ModuleList([attention, feed_forward(dim, config.ff_mult, ops)]))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.proj_in(tokens)
        latents = repeat(self.latents.to(x), "1 n d -> b n d", b=len(x))
        for layer in self.layers:
            attention, forward = layer.children()
            latents = latents + attention(x, latents)
            latents = latents + forward(latents)
        return self.norm_out(self.proj_out(latents))
