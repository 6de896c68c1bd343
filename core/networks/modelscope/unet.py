"""ModelScope's video UNet, arXiv 2308.06571 section 3: Stable Diffusion 2's, with temporal layers behind the spatial.

MS-Vid2Vid is the same network with other zeros around its pictures on the way down.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..blocks import (
    CONV_EPS,
    GROUPS,
    CrossAttention,
    Downsample,
    TemporalTransformer,
    Upsample,
    embedding,
    fold,
    timestep_embedding,
    unfold,
)
from ..ops import TORCH, Ops
from ..unet import INIT_HEADS, Layers, input_side, output_side, run
from .config import UNetConfig


class Encoder(nn.Module):
    """The way down and the middle. A clip is [B, C, T, H, W] outside and [(B T), C, H, W] inside.

    `told` is what the cross-attentions are called with: here the text alone, [B, tokens, D].
    """

    def __init__(self, config: UNetConfig, looks=CrossAttention, ops: Ops = TORCH):
        super().__init__()
        self.config = config
        self.layers = Layers(config, looks, ops)
        width = config.model_channels
        self.time_embed = embedding(width, 4 * width, ops)
        first = ops.Conv2d(config.in_channels, width, 3, padding=1)
        behind = TemporalTransformer(width, INIT_HEADS, config.init_width, ops=ops)
        self.input_blocks, self.left = input_side(
            config,
            nn.ModuleList([first, behind]),
            self.layers.stage,
            lambda channels: Downsample(channels, config.extra_rows, ops),
        )
        self.middle_block = nn.ModuleList(self.layers.middle(self.left[-1]))

    def embed(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(like.dtype))

    def descend(self, x: Tensor, emb: Tensor, *told, added: Tensor | None = None) -> list[Tensor]:
        """What every input block leaves. added: to the result of the first."""
        clips, _, frames = x.shape[:3]
        conv, temporal = self.input_blocks[0]
        h = conv(fold(x))
        if frames > 1:
            h = temporal(h, clips)
        if added is not None:
            h = h + added
        left = [h]
        for block in self.input_blocks[1:]:
            h = block(h) if isinstance(block, Downsample) else run(block, h, emb, clips, *told)
            left.append(h)
        return left


class UNet(Encoder):
    """Denoises a clip of latents, told by text.

    config: sizes. looks: see `Layers`.
    """

    def __init__(self, config: UNetConfig, looks=CrossAttention, ops: Ops = TORCH):
        super().__init__(config, looks, ops)
        self.output_blocks = output_side(
            config,
            self.left,
            self.layers.stage,
            lambda channels: Upsample(channels, config.extra_rows, ops),
        )
        self.out = nn.Sequential(
            ops.GroupNorm(GROUPS, config.widths[0], eps=CONV_EPS),
            nn.SiLU(),
            ops.Conv2d(config.widths[0], config.out_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, *told, merge: Callable[[int, Tensor, int], Tensor] | None = None
    ) -> Tensor:
        """What the model predicts of a clip: noise, or velocity in MS-Vid2Vid.

        x: [B, in_channels, T, H, W]. timesteps: [B]. told: the text, [B, tokens, D].
        merge(number, h, clips): what takes the place of what input block `number` left, and, with the number after the
            last, of the middle's result. The way down goes on without it.

        Returns [B, out_channels, T, H, W].
        """
        clips = len(x)
        emb = self.embed(timesteps, x)
        left = self.descend(x, emb, *told)
        h = run(self.middle_block, left[-1], emb, clips, *told)
        if merge is not None:
            left = [merge(number, features, clips) for number, features in enumerate(left)]
            h = merge(len(left), h, clips)
        for block in self.output_blocks:
            h = torch.cat([h, left.pop()], dim=1)
            h = run(block, h, emb, clips, *told, size=left[-1].shape[2:] if left else None)
        return unfold(self.out(h), clips)
