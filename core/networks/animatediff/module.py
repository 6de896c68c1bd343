"""AnimateDiff's motion module (arXiv 2307.04725, section 4.2 and figure 3): each place attends along time.

Parameter names are the published checkpoints'.
"""

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ..blocks import GROUPS, TRANSFORMER_EPS, FeedForward, SelfAttention
from ..ops import TORCH, Ops
from .config import HEADS, MotionConfig

ATTENTIONS = 2  # of a block, all of them along time


def sinusoids(frames: int, dim: int, device=None) -> Tensor:
    """[1, frames, dim]: sine and cosine in turn."""
    frequencies = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


class Positions(nn.Module):
    """x + the sinusoids of its frames, [R, T, C]."""

    pe: Tensor

    def __init__(self, dim: int, frames: int, ops: Ops = TORCH):
        super().__init__()
        self.register_buffer("pe", sinusoids(frames, dim, ops.device).to(ops.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, : x.shape[1]].to(x)


class TemporalAttention(SelfAttention):
    """Attention along time whose queries, keys and values know their frame. [R, T, C]."""

    def __init__(self, dim: int, heads: int, frames: int, ops: Ops = TORCH):
        super().__init__(dim, heads, ops)
        self.pos_encoder = Positions(dim, frames, ops)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pos_encoder(x))


class TemporalBlock(nn.Module):
    def __init__(self, dim: int, heads: int, frames: int, ops: Ops = TORCH):
        super().__init__()
        attentions = [TemporalAttention(dim, heads, frames, ops) for _ in range(ATTENTIONS)]
        self.attention_blocks = nn.ModuleList(attentions)
        self.norms = nn.ModuleList([ops.LayerNorm(dim) for _ in range(ATTENTIONS)])
        self.ff = FeedForward(dim, ops)
        self.ff_norm = ops.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """The group norm looks at frames one by one, in every version."""

    def __init__(self, channels: int, heads: int, frames: int, ops: Ops = TORCH):
        super().__init__()
        self.norm = ops.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS)
        self.proj_in = ops.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, heads, frames, ops)])
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """[(B T), C, H, W] -> the same."""
        h = self.proj_in(rearrange(self.norm(x), "(b t) c h w -> (b h w) t c", b=clips))
        for block in self.transformer_blocks:
            h = block(h)
        h = rearrange(self.proj_out(h), "(b h w) t c -> (b t) c h w", b=clips, h=x.shape[2])
        return x + h


class MotionModule(nn.Module):
    def __init__(
        self,
        channels: int,
        frames: int,
        heads: int = HEADS,
        ops: Ops = TORCH,
    ):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, heads, frames, ops)

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """x [(B T), C, H, W], B clips of T frames, T no more than the rows of the position table -> the same."""
        return self.temporal_transformer(x, clips)


class Level(nn.Module):
    def __init__(self, modules: list[MotionModule]):
        super().__init__()
        self.motion_modules = nn.ModuleList(modules)


class MotionModules(nn.Module):
    """All motion modules of a UNet, as a published file holds them; `config.places` says where they belong."""

    def __init__(self, config: MotionConfig, ops: Ops = TORCH):
        super().__init__()
        self.config = config

        def level(widths: tuple[int, ...]) -> Level:
            return Level([MotionModule(width, config.frames, config.heads, ops) for width in widths])

        self.down_blocks = nn.ModuleList([level(widths) for widths in config.down])
        self.up_blocks = nn.ModuleList([level(widths) for widths in config.up])
        if config.middle:
            self.mid_block = level((config.middle,))

    @property
    def placed(self) -> dict[tuple[str, int], MotionModule]:
        """{block of the UNet: module}"""
        return {place: cast(MotionModule, self.get_submodule(name)) for name, place in self.config.places.items()}


class ClipNorm(nn.Module):
    """A group norm whose statistics all frames of a clip share, made of one that looks at frames one by one."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """[(B T), C, H, W] -> the same."""
        clip = self.norm(rearrange(x, "(b t) c h w -> b c t h w", b=clips))
        return rearrange(clip, "b c t h w -> (b t) c h w")
