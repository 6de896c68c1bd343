"""Blocks of video UNets that grew out of Stable Diffusion's: spatial ones work on frames, temporal ones on clips.

Their layout is that of latent video diffusion (arXiv 2211.13221) and ModelScope (arXiv 2308.06571).

Activations stay folded, [(B T), C, H, W], and a temporal block looks at them as clips. Layer and parameter
names are the published checkpoints', the misspelt one included.
"""

import math

import torch
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


def temporal_stage(channels: int, *between: nn.Module, ops: Ops = TORCH) -> nn.Sequential:
    """Group norm over the clip, SiLU, whatever stands between, a convolution over 3 frames. [B, C, T, H, W]."""
    norm = ops.GroupNorm(GROUPS, channels, eps=CONV_EPS)
    conv = ops.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
    return nn.Sequential(norm, nn.SiLU(), *between, conv)


def attend_together(attend: Attend, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of rows q [R, N, C] to fewer rows k and v [S, M, C], R / S of them in order to each.

    Rows that read the same keys are one long sequence of queries, so no key is repeated.
    """
    return attend(q.reshape(len(k), -1, q.shape[-1]), k, v, heads).view_as(q)


class TemporalConv(nn.Module):
    """x + four times (group norm over the clip, SiLU, convolution over 3 frames). [B, C, T, H, W]."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.conv1 = temporal_stage(channels, ops=ops)
        # An identity in the place of dropout.
        self.conv2, self.conv3, self.conv4 = (temporal_stage(channels, nn.Identity(), ops=ops) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv4(self.conv3(self.conv2(self.conv1(x))))


class ResBlock(nn.Module):
    """A residual block of Stable Diffusion with a temporal convolution behind it."""

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
        """x [(B T), C, H, W]; emb [B, E], or one row a frame; clips: B -> [(B T), out_channels, H, W]."""
        shift = self.emb_layers(emb)
        h = self.in_layers(x).unflatten(0, (len(shift), -1)) + shift[:, None, :, None, None]
        x = self.skip_connection(x) + self.out_layers(h.flatten(0, 1))
        return fold(self.temopral_conv(unfold(x, clips)))


def unfold(x: Tensor, clips: int) -> Tensor:
    """[(B T), C, H, W] -> [B, C, T, H, W]."""
    return x.unflatten(0, (clips, -1)).transpose(1, 2)


def fold(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [(B T), C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def along_time(clip: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [(B H W), T, C]."""
    return clip.permute(0, 3, 4, 2, 1).flatten(0, 2)


def in_frames(h: Tensor, clip: Tensor) -> Tensor:
    """The inverse, folded: [(B H W), T, C] -> [(B T), C, H, W], of a clip [B, ., T, H, W]."""
    return h.unflatten(0, (len(clip), *clip.shape[-2:])).permute(0, 3, 4, 1, 2).flatten(0, 1)


class Downsample(nn.Module):
    """Half the height and width by a convolution of stride 2. extra_rows: of zeros beyond the usual one, above and
    below."""

    def __init__(self, channels: int, extra_rows: int = 0, ops: Ops = TORCH):
        super().__init__()
        self.op = ops.Conv2d(channels, channels, 3, stride=2, padding=(1 + extra_rows, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width: nearest neighbours, then a convolution. extra_rows: cut off above and below."""

    def __init__(self, channels: int, extra_rows: int = 0, ops: Ops = TORCH):
        super().__init__()
        self.extra_rows = extra_rows
        self.conv = ops.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """size: height and width, each at most one less than whole; where the way down began with an odd number."""
        top = self.extra_rows
        height, width = size or (2 * x.shape[2] - 2 * top, 2 * x.shape[3])
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x[:, :, top : top + height, :width])


class GatedProjection(nn.Module):
    """GEGLU: a linear layer whose second half gates the first."""

    def __init__(self, dim: int, inner: int, ops: Ops = TORCH):
        super().__init__()
        self.proj = ops.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Four times as wide in between."""

    def __init__(self, dim: int, ops: Ops = TORCH):
        super().__init__()
        project = GatedProjection(dim, 4 * dim, ops)
        self.net = nn.Sequential(project, nn.Identity(), ops.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself. [B, N, C]."""

    def __init__(self, dim: int, heads: int, ops: Ops = TORCH):
        super().__init__()
        self.heads, self.attend = heads, ops.attention
        self.to_q, self.to_k, self.to_v = (ops.Linear(dim, dim, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(ops.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(self.attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class CrossAttention(nn.Module):
    """Attention of a sequence to another one, its context."""

    def __init__(self, dim: int, context_dim: int, heads: int, ops: Ops = TORCH):
        super().__init__()
        self.heads, self.attend = heads, ops.attention
        self.to_q = ops.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = (ops.Linear(context_dim, dim, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(ops.Linear(dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [R, N, C]; context [S, M, D], a row for every R / S rows of x -> as x."""
        return self.to_out(
            attend_together(self.attend, self.to_q(x), self.to_k(context), self.to_v(context), self.heads)
        )


class SpatialBlock(nn.Module):
    """The transformer block of spatial layers: self-attention, a look at what it is told, feed-forward."""

    def __init__(self, dim: int, heads: int, looks: nn.Module, ops: Ops = TORCH):
        super().__init__()
        self.attn1, self.attn2 = SelfAttention(dim, heads, ops), looks
        self.ff = FeedForward(dim, ops)
        self.norm1, self.norm2, self.norm3 = (ops.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, *told) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), *told)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer over the places of each frame.

    looks: the cross-attention, called with the places [(B T), N, C] and whatever `forward` is told.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        looks: nn.Module,
        ops: Ops = TORCH,
    ):
        super().__init__()
        self.norm = ops.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS)
        self.proj_in = ops.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, heads, looks, ops)])
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x: Tensor, *told) -> Tensor:
        """[(B T), C, H, W] -> the same."""
        h = self.proj_in(self.norm(x).flatten(2).mT)
        for block in self.transformer_blocks:
            h = block(h, *told)
        return x + self.proj_out(h).mT.unflatten(2, x.shape[2:])


class TemporalBlock(nn.Module):
    """The transformer block of temporal layers: both of its attentions look along time."""

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
    """Every place of the picture attends along time, with no position and no mask.

    inner: width in between, if it is not `channels`. linear: whether the projections are stored as linear layers or as
    convolutions of one element.
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
        clip = unfold(x, clips)
        h = self._project(self.proj_in, along_time(self.norm(clip)))
        for block in self.transformer_blocks:
            h = block(h)
        return x + in_frames(self._project(self.proj_out, h), clip)

    def _project(self, layer: nn.Module, h: Tensor) -> Tensor:
        return layer(h) if self.linear else layer(h.mT).mT
