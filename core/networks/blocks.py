"""Blocks of video UNets based on Stable Diffusion's: spatial blocks work on frames, temporal blocks on clips.

The layout is that of latent video diffusion (arXiv 2211.13221) and ModelScope (arXiv 2308.06571).

Between blocks activations are frames, [(B T), C, H, W]; temporal blocks rearrange them to clips, [B, C, T, H, W].
Layer and parameter names are the published checkpoints', the misspelt one included.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .attend import Attend
from .ops import TORCH, Ops

GROUPS = 32
CONV_EPS, TRANSFORMER_EPS = 1e-5, 1e-6  # of group norms, in residual blocks and at the head of transformers


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of [B] numbers in float32: [B, dim], cosines first."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def embedding(dim: int, out: int, ops: Ops = TORCH) -> nn.Sequential:
    """Sinusoids -> embedding."""
    return nn.Sequential(ops.Linear(dim, out), nn.SiLU(), ops.Linear(out, out))


def temporal_stage(channels: int, *middle: nn.Module, ops: Ops = TORCH) -> nn.Sequential:
    """Group norm over the clip, SiLU, the `middle` layers, a convolution over 3 frames. [B, C, T, H, W]."""
    norm = ops.GroupNorm(GROUPS, channels, eps=CONV_EPS)
    conv = ops.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
    return nn.Sequential(norm, nn.SiLU(), *middle, conv)


def attend_shared(attend: Attend, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of frames q [(S R), N, C] to the k and v [S, M, C] that each R consecutive frames share.

    The queries of frames with the same keys become one long sequence, so that no key is repeated.
    """
    out = attend(rearrange(q, "(s r) n c -> s (r n) c", s=len(k)), k, v, heads)
    return rearrange(out, "s (r n) c -> (s r) n c", n=q.shape[1])


class TemporalConv(nn.Module):
    """x + four times (group norm over the clip, SiLU, convolution over 3 frames). [B, C, T, H, W]."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.conv1 = temporal_stage(channels, ops=ops)
        # The identity stands where the published layers have dropout.
        self.conv2, self.conv3, self.conv4 = (temporal_stage(channels, nn.Identity(), ops=ops) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv4(self.conv3(self.conv2(self.conv1(x))))


class ResBlock(nn.Module):
    """A residual block of Stable Diffusion, followed by a temporal convolution."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int, ops: Ops = TORCH):
        super().__init__()

        def norm(width: int):
            return ops.GroupNorm(GROUPS, width, eps=CONV_EPS)

        def conv(width: int, size: int):
            return ops.Conv2d(width, out_channels, size, padding=size // 2)

        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), conv(channels, 3))
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(norm(out_channels), nn.SiLU(), nn.Identity(), conv(out_channels, 3))
        self.skip_connection = nn.Identity() if channels == out_channels else conv(channels, 1)
        self.temopral_conv = TemporalConv(out_channels, ops)

    def forward(self, x: Tensor, emb: Tensor, clips: int) -> Tensor:
        """x [(B T), C, H, W]; emb [B, E], or [(B T), E]; clips: B -> [(B T), out_channels, H, W]."""
        shift = self.emb_layers(emb)
        h = rearrange(self.in_layers(x), "(b t) c h w -> b t c h w", b=len(shift))
        h = h + rearrange(shift, "b c -> b 1 c 1 1")
        x = self.skip_connection(x) + self.out_layers(rearrange(h, "b t c h w -> (b t) c h w"))
        x = self.temopral_conv(rearrange(x, "(b t) c h w -> b c t h w", b=clips))
        return rearrange(x, "b c t h w -> (b t) c h w")


class Downsample(nn.Module):
    """Half the height and width by a convolution of stride 2. extra_rows: rows of zeros added to the usual padding at
    the top and at the bottom."""

    def __init__(self, channels: int, extra_rows: int = 0, ops: Ops = TORCH):
        super().__init__()
        self.op = ops.Conv2d(channels, channels, 3, stride=2, padding=(1 + extra_rows, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width: nearest neighbor, then a convolution. extra_rows: cropped at the top and bottom."""

    def __init__(self, channels: int, extra_rows: int = 0, ops: Ops = TORCH):
        super().__init__()
        self.extra_rows = extra_rows
        self.conv = ops.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """size: (height, width) where a side was odd before downsampling, at most one less than twice the input's."""
        top = self.extra_rows
        height, width = size or (2 * x.shape[2] - 2 * top, 2 * x.shape[3])
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x[:, :, top : top + height, :width])


class GatedProjection(nn.Module):
    """GEGLU: the second half of a linear layer's output gates the first."""

    def __init__(self, dim: int, inner: int, ops: Ops = TORCH):
        super().__init__()
        self.proj = ops.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, then a linear layer back."""

    def __init__(self, dim: int, ops: Ops = TORCH):
        super().__init__()
        project = GatedProjection(dim, 4 * dim, ops)
        self.net = nn.Sequential(project, nn.Identity(), ops.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class SelfAttention(nn.Module):
    """Self-attention. [B, N, C]."""

    def __init__(self, dim: int, heads: int, ops: Ops = TORCH):
        super().__init__()
        self.heads, self.attend = heads, ops.attention
        self.to_q, self.to_k, self.to_v = (ops.Linear(dim, dim, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(ops.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(self.attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class CrossAttention(nn.Module):
    """Attention of a sequence to its context."""

    def __init__(self, dim: int, context_dim: int, heads: int, ops: Ops = TORCH):
        super().__init__()
        self.heads, self.attend = heads, ops.attention
        self.to_q = ops.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = (ops.Linear(context_dim, dim, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(ops.Linear(dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [R, N, C]; context [S, M, D], a row for each R / S rows of x -> as x."""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(attend_shared(self.attend, q, k, v, self.heads))


class SpatialBlock(nn.Module):
    """The transformer block of spatial layers: self-attention, cross-attention, feed-forward."""

    def __init__(self, dim: int, heads: int, cross_attention: nn.Module, ops: Ops = TORCH):
        super().__init__()
        self.attn1, self.attn2 = SelfAttention(dim, heads, ops), cross_attention
        self.ff = FeedForward(dim, ops)
        self.norm1, self.norm2, self.norm3 = (ops.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, *context) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), *context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer over the positions of each frame.

    cross_attention: called with the positions [(B T), N, C] and the `context` of `forward`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        cross_attention: nn.Module,
        ops: Ops = TORCH,
    ):
        super().__init__()
        self.norm = ops.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS)
        self.proj_in = ops.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, heads, cross_attention, ops)])
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x: Tensor, *context) -> Tensor:
        """[(B T), C, H, W] -> the same."""
        h = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        for block in self.transformer_blocks:
            h = block(h, *context)
        return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])


class TemporalBlock(nn.Module):
    """The transformer block of temporal layers: both attentions are self-attention over frames."""

    def __init__(self, dim: int, heads: int, ops: Ops = TORCH):
        super().__init__()
        self.attn1, self.attn2 = (SelfAttention(dim, heads, ops) for _ in range(2))
        self.ff = FeedForward(dim, ops)
        self.norm1, self.norm2, self.norm3 = (ops.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        return x + self.ff(self.norm3(x))


class TemporalTransformer(nn.Module):
    """Every position attends over the frames of its clip, with no positional encoding and no mask.

    inner: width of the transformer, `channels` if None. linear: whether the projections are linear layers or
    convolutions of kernel size 1.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        inner: int | None = None,
        linear: bool = True,
        ops: Ops = TORCH,
    ):
        super().__init__()
        inner = inner or channels
        self.linear = linear

        def project(width: int, out: int):
            if linear:
                return ops.Linear(width, out)
            return ops.Conv1d(width, out, 1)

        self.norm = ops.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS)
        self.proj_in = project(channels, inner)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(inner, heads, ops)])
        self.proj_out = project(inner, channels)

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """[(B T), C, H, W] -> the same."""
        clip = rearrange(x, "(b t) c h w -> b c t h w", b=clips)
        h = self._project(self.proj_in, rearrange(self.norm(clip), "b c t h w -> (b h w) t c"))
        for block in self.transformer_blocks:
            h = block(h)
        h = self._project(self.proj_out, h)
        return x + rearrange(h, "(b h w) t c -> (b t) c h w", b=clips, h=x.shape[2])

    def _project(self, layer: nn.Module, h: Tensor) -> Tensor:
        return layer(h) if self.linear else layer(h.mT).mT
