"""ToonCrafter's decoder, arXiv 2405.17933 section 3.3: an image decoder that reads the whole clip and both end images.

Stable Diffusion's decoder with a temporal layer in every residual block. After every level, features of the two end
images from the same checkpoint's encoder are mixed in.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import GROUPS, Upsample, attend_shared, temporal_stage
from ..ops import TORCH, Ops

EPS = 1e-6  # of the spatial group norms
FUSION_HEADS, FUSION_WIDTH = 8, 512  # whatever the level's width
FUSED_LEVELS = 2  # the coarsest levels attend to the images, the others add them to the first and last frame


class TimeStack(nn.Module):
    """x + twice (group norm over the clip, SiLU, convolution over 3 frames). [B, C, T, H, W]."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.in_layers = temporal_stage(channels, ops=ops)
        self.out_layers = temporal_stage(channels, nn.Identity(), ops=ops)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out_layers(self.in_layers(x))


class VideoResBlock(nn.Module):
    """A residual block of each frame, blended with its temporal layer by a learned factor."""

    def __init__(self, channels: int, out_channels: int, ops: Ops = TORCH):
        super().__init__()
        self.norm1 = ops.GroupNorm(GROUPS, channels, eps=EPS)
        self.conv1 = ops.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = ops.GroupNorm(GROUPS, out_channels, eps=EPS)
        self.conv2 = ops.Conv2d(out_channels, out_channels, 3, padding=1)
        same = channels == out_channels
        self.nin_shortcut = nn.Identity() if same else ops.Conv2d(channels, out_channels, 1)
        self.time_stack = TimeStack(out_channels, ops)
        self.mix_factor = ops.zeros(1)

    def forward(self, x: Tensor, clips: int | None) -> Tensor:
        """[(B T), C, H, W] -> [(B T), out_channels, H, W]. clips: B, or None to skip the temporal layer."""
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        h = self.nin_shortcut(x) + h
        if clips is None:
            return h
        temporal = torch.sigmoid(self.mix_factor.to(h))
        clip = self.time_stack(rearrange(h, "(b t) c h w -> b c t h w", b=clips))
        return temporal * rearrange(clip, "b c t h w -> (b t) c h w") + (1 - temporal) * h


class FrameAttention(nn.Module):
    """Self-attention of each frame, with one head."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.attend = ops.attention
        self.norm = ops.GroupNorm(GROUPS, channels, eps=EPS)
        self.q, self.k, self.v, self.proj_out = (ops.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "b c h w -> b (h w) c") for layer in (self.q, self.k, self.v))
        out = rearrange(self.attend(q, k, v, 1), "b (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(out)


class Fusion(nn.Module):
    """All frames attend to the two end images."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.attend = ops.attention
        self.norm = ops.GroupNorm(GROUPS, channels, eps=EPS)
        self.to_q, self.to_k, self.to_v = (ops.Linear(channels, FUSION_WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(ops.Linear(FUSION_WIDTH, channels))

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        """x [(B T), C, H, W], images [B, C, 2, H, W] -> as x."""
        q = self.to_q(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        context = rearrange(images, "b c t h w -> b (t h w) c")
        out = attend_shared(self.attend, q, self.to_k(context), self.to_v(context), FUSION_HEADS)
        return x + rearrange(self.to_out(out), "b (h w) c -> b c h w", h=x.shape[2])


class Combiner(nn.Module):
    """Adds features of the first image to the first frame, and those of the last image to the last frame."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        """x [(B T), C, H, W], images [B, C, 2, H, W] -> as x."""
        features = self.conv(rearrange(images, "b c t h w -> (b t) c h w"))
        first, last = rearrange(features, "(b t) c h w -> t b c h w", t=2)
        clip = rearrange(x, "(b t) c h w -> b t c h w", b=len(images)).clone()
        clip[:, 0] += first
        clip[:, -1] += last
        return rearrange(clip, "b t c h w -> (b t) c h w")


class Middle(nn.Module):
    """Attention of each frame between two residual blocks. [(B T), C, H, W] -> the same."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.block_1 = VideoResBlock(channels, channels, ops)
        self.attn_1 = FrameAttention(channels, ops)
        self.block_2 = VideoResBlock(channels, channels, ops)

    def forward(self, x: Tensor, clips: int | None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, clips)), clips)


class Level(nn.Module):
    """Residual blocks, and what makes their result twice as large: on every level but the finest."""

    def __init__(self, blocks: Sequence[VideoResBlock], upsample: Upsample | None):
        super().__init__()
        self.block = nn.ModuleList(blocks)
        if upsample is not None:
            self.upsample = upsample


class ImageEncoder(Protocol):
    """Stable Diffusion's encoder, as far as its features are read. down: levels of residual blocks, finest first."""

    conv_in: Callable[[Tensor], Tensor]
    down: Iterable[Any]


class DualReferenceDecoder(nn.Module):
    """Latents of a clip and features of its two end images -> frames.

    channels, channel_mult, num_res_blocks, z_channels: of the autoencoder, as published by default.
    """

    def __init__(
        self,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        z_channels: int = 4,
        ops: Ops = TORCH,
    ):
        super().__init__()
        widths = [channels * mult for mult in channel_mult]
        width = widths[-1]
        self.conv_in = ops.Conv2d(z_channels, width, 3, padding=1)
        self.mid = Middle(width, ops)
        levels, refinements = [], []
        for level, out in reversed(list(enumerate(widths))):
            blocks = [VideoResBlock(width if i == 0 else out, out, ops) for i in range(num_res_blocks + 1)]
            levels.insert(0, Level(blocks, Upsample(out, ops=ops) if level else None))
            fused = level >= len(widths) - FUSED_LEVELS
            refinements.insert(0, Fusion(out, ops) if fused else Combiner(out, ops))
            width = out
        self.up = nn.ModuleList(levels)
        self.attn_refinement = nn.ModuleList([*refinements, Combiner(width, ops)])
        self.norm_out = ops.GroupNorm(GROUPS, width, eps=EPS)
        self.conv_out = ops.Conv2d(width, 3, 3, padding=1)
        self.conv_out.time_mix_conv = ops.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, z: Tensor, references: Sequence[Tensor] | None = None) -> Tensor:
        """Frames, about -1 to 1.

        z: [(B T), z_channels, h, w], divided by the latents' scale.
        references: the encoder's features of the first and last image at each level, [B, C, 2, H, W], from fine to
            coarse, and last those of its first convolution. None: each frame alone, as by a plain decoder.
        """
        clips = None if references is None else len(references[0])
        h = self.mid(self.conv_in(z), clips)
        for level in reversed(range(len(self.up))):
            stage = cast(Level, self.up[level])
            for block in stage.block:
                h = block(h, clips)
            if references is not None:
                h = self.attn_refinement[level](h, references[level])
            if level:
                h = stage.upsample(h)
        h = F.silu(self.norm_out(h))
        if references is None:
            return self.conv_out(h)
        h = self.conv_out(self.attn_refinement[-1](h, references[-1]))
        time_mix_conv = self.conv_out.get_submodule("time_mix_conv")
        clip = time_mix_conv(rearrange(h, "(b t) c h w -> b c t h w", b=clips))
        return rearrange(clip, "b c t h w -> (b t) c h w")


def encoder_features(encoder: ImageEncoder, images: Tensor) -> list[Tensor]:
    """The decoder's `references`: features of the two end images of each clip.

    images: [B, 3, 2, H, W], -1 to 1.
    Returns the features after the last residual block of each level, then those of the first convolution, each
    [B, C, 2, H, W].
    """
    clips = len(images)
    first = h = encoder.conv_in(rearrange(images, "b c t h w -> (b t) c h w"))
    features = []
    for level in encoder.down:
        for number, block in enumerate(level.block):
            h = block(h, None)
            if len(level.attn):
                h = level.attn[number](h)
        features.append(rearrange(h, "(b t) c h w -> b c t h w", b=clips))
        if hasattr(level, "downsample"):
            h = level.downsample(h)
    return [*features, rearrange(first, "(b t) c h w -> b c t h w", b=clips)]
