"""ToonCrafter's decoder, arXiv 2405.17933 section 3.3: a picture decoder that sees the whole clip and both end frames.

Stable Diffusion's decoder with a temporal layer in every residual block, and features of the two given pictures, from
the same checkpoint's encoder, mixed in behind every level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import GROUPS, Upsample, attend_together, fold, temporal_stage, unfold
from ..ops import TORCH, Ops

EPS = 1e-6  # of the spatial group norms
FUSION_HEADS, FUSION_WIDTH = 8, 512  # whatever the level's width
FUSED_LEVELS = 2  # so many of the coarsest levels attend to the pictures, the others add them to the ends


class TimeStack(nn.Module):
    """x + twice (group norm over the clip, SiLU, convolution over 3 frames). [B, C, T, H, W]."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.in_layers = temporal_stage(channels, ops=ops)
        self.out_layers = temporal_stage(channels, nn.Identity(), ops=ops)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out_layers(self.in_layers(x))


class VideoResBlock(nn.Module):
    """A residual block of each frame, blended with its temporal layer by a learned share."""

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
        """[(B T), C, H, W] -> [(B T), out_channels, H, W]. clips: B, or None to leave the temporal layer out."""
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        h = self.nin_shortcut(x) + h
        if clips is None:
            return h
        temporal = torch.sigmoid(self.mix_factor.to(h))
        return temporal * fold(self.time_stack(unfold(h, clips))) + (1 - temporal) * h


class FrameAttention(nn.Module):
    """Every place of a frame attends to all others, with one head."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.attend = ops.attention
        self.norm = ops.GroupNorm(GROUPS, channels, eps=EPS)
        self.q, self.k, self.v, self.proj_out = (ops.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT for layer in (self.q, self.k, self.v))
        return x + self.proj_out(self.attend(q, k, v, 1).mT.unflatten(2, x.shape[2:]))


class Fusion(nn.Module):
    """All frames attend to the two pictures."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.attend = ops.attention
        self.norm = ops.GroupNorm(GROUPS, channels, eps=EPS)
        self.to_q, self.to_k, self.to_v = (ops.Linear(channels, FUSION_WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(ops.Linear(FUSION_WIDTH, channels))

    def forward(self, x: Tensor, pictures: Tensor) -> Tensor:
        """x [(B T), C, H, W], pictures [B, C, 2, H, W] -> as x."""
        q = self.to_q(self.norm(x).flatten(2).mT)
        seen = pictures.flatten(2).mT  # both pictures' places, one after the other
        out = attend_together(self.attend, q, self.to_k(seen), self.to_v(seen), FUSION_HEADS)
        return x + self.to_out(out).mT.unflatten(2, x.shape[2:])


class Combiner(nn.Module):
    """The first frame gets features of the first picture, the last frame those of the last."""

    def __init__(self, channels: int, ops: Ops = TORCH):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, pictures: Tensor) -> Tensor:
        """x [(B T), C, H, W], pictures [B, C, 2, H, W] -> as x."""
        first, last = self.conv(fold(pictures)).unflatten(0, (-1, 2)).unbind(1)
        clip = x.unflatten(0, (len(pictures), -1)).clone()
        clip[:, 0] += first
        clip[:, -1] += last
        return clip.flatten(0, 1)


class DualReferenceDecoder(nn.Module):
    """Latents of a clip and features of its two end pictures -> frames.

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

        def block(channels: int, out: int) -> VideoResBlock:
            return VideoResBlock(channels, out, ops)

        self.conv_in = ops.Conv2d(z_channels, width, 3, padding=1)
        self.mid = nn.Module()
        self.mid.block_1 = block(width, width)
        self.mid.attn_1 = FrameAttention(width, ops)
        self.mid.block_2 = block(width, width)
        levels, refinements = [], []
        for level, out in reversed(list(enumerate(widths))):
            stage = nn.Module()
            stage.block = nn.ModuleList([block(width if i == 0 else out, out) for i in range(num_res_blocks + 1)])
            if level:
                stage.upsample = Upsample(out, ops=ops)
            fused = level >= len(widths) - FUSED_LEVELS
            refinements.insert(0, Fusion(out, ops) if fused else Combiner(out, ops))
            levels.insert(0, stage)
            width = out
        self.up = nn.ModuleList(levels)
        self.attn_refinement = nn.ModuleList([*refinements, Combiner(width, ops)])
        self.norm_out = ops.GroupNorm(GROUPS, width, eps=EPS)
        self.conv_out = ops.Conv2d(width, 3, 3, padding=1)
        self.conv_out.time_mix_conv = ops.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, z: Tensor, references: Sequence[Tensor] | None = None) -> Tensor:
        """Frames, about -1 to 1.

        z: [(B T), z_channels, h, w], divided by the latents' scale.
        references: of each level the encoder's features of first and last picture, [B, C, 2, H, W], from fine to
            coarse, and last those of its first convolution. None: every frame by itself, as a plain decoder gives it.
        """
        clips = None if references is None else len(references[0])
        h = self.mid.block_1(self.conv_in(z), clips)
        h = self.mid.block_2(self.mid.attn_1(h), clips)
        for level in reversed(range(len(self.up))):
            for block in self.up[level].block:
                h = block(h, clips)
            if references is not None:
                h = self.attn_refinement[level](h, references[level])
            if level:
                h = self.up[level].upsample(h)
        h = F.silu(self.norm_out(h))
        if references is None:
            return self.conv_out(h)
        h = self.conv_out(self.attn_refinement[-1](h, references[-1]))
        return fold(self.conv_out.time_mix_conv(unfold(h, clips)))


def encoder_features(encoder: nn.Module, pictures: Tensor) -> list[Tensor]:
    """What the decoder wants to know of the two pictures of each clip.

    encoder: of Stable Diffusion's autoencoder, with `conv_in` and levels `down`. pictures: [B, 3, 2, H, W], -1 to 1.
    Returns the features behind the last residual block of each level, then those of the first convolution, each
    [B, C, 2, H, W].
    """
    clips = len(pictures)
    first = h = encoder.conv_in(fold(pictures))
    features = []
    for level in encoder.down:
        for number, block in enumerate(level.block):
            h = block(h, None)
            if len(level.attn):
                h = level.attn[number](h)
        features.append(unfold(h, clips))
        if hasattr(level, "downsample"):
            h = level.downsample(h)
    return [*features, unfold(first, clips)]
