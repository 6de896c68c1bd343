"""ModelScope's video UNet, arXiv 2308.06571 section 3: Stable Diffusion 2's, with temporal layers after the spatial.

MS-Vid2Vid is the same network with other zero padding in its downsampling layers.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from ..blocks import (
    CONV_EPS,
    GROUPS,
    CrossAttention,
    Downsample,
    TemporalTransformer,
    Upsample,
    embedding,
    timestep_embedding,
)
from ..ops import TORCH, Ops
from ..unet import INIT_HEADS, LayerFactory, build_input_blocks, build_output_blocks, run_block
from .config import UNetConfig


class UNetEncoder(nn.Module):
    """The input blocks and the middle block.

    cross_attention: class of the spatial cross-attentions, see `LayerFactory`. context: their inputs, here the text
    alone, [B, tokens, D].
    """

    def __init__(
        self, config: UNetConfig, cross_attention: Callable[..., nn.Module] = CrossAttention, ops: Ops = TORCH
    ):
        super().__init__()
        self.config = config
        self.layers = LayerFactory(config, cross_attention, ops)
        width = config.model_channels
        self.time_embed = embedding(width, 4 * width, ops)
        first = ops.Conv2d(config.in_channels, width, 3, padding=1)
        transformer_in = TemporalTransformer(width, INIT_HEADS, config.init_width, ops=ops)
        self.input_blocks, self.skips = build_input_blocks(
            config,
            nn.ModuleList([first, transformer_in]),
            self.layers.stage,
            lambda channels: Downsample(channels, config.extra_rows, ops),
        )
        self.middle_block = nn.ModuleList(self.layers.middle(self.skips[-1]))

    def embed(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(like.dtype))

    def encode(self, x: Tensor, emb: Tensor, *context, added: Tensor | None = None) -> list[Tensor]:
        """The skip connection of every input block, [(B T), C, H, W]. added: to the result of the first block."""
        clips, _, frames = x.shape[:3]
        conv, temporal = self.input_blocks[0].children()
        h = conv(rearrange(x, "b c t h w -> (b t) c h w"))
        if frames > 1:
            h = temporal(h, clips)
        if added is not None:
            h = h + added
        skips = [h]
        for block in self.input_blocks[1:]:
            h = block(h) if isinstance(block, Downsample) else run_block(block, h, emb, clips, *context)
            skips.append(h)
        return skips


class UNet(UNetEncoder):
    """Denoises a clip of latents, conditioned on text."""

    def __init__(
        self, config: UNetConfig, cross_attention: Callable[..., nn.Module] = CrossAttention, ops: Ops = TORCH
    ):
        super().__init__(config, cross_attention, ops)
        self.output_blocks = build_output_blocks(
            config,
            self.skips,
            self.layers.stage,
            lambda channels: Upsample(channels, config.extra_rows, ops),
        )
        self.out = nn.Sequential(
            ops.GroupNorm(GROUPS, config.widths[0], eps=CONV_EPS),
            nn.SiLU(),
            ops.Conv2d(config.widths[0], config.out_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, *context, merge: Callable[[int, Tensor, int], Tensor] | None = None
    ) -> Tensor:
        """What the model predicts of a clip: noise, or velocity in MS-Vid2Vid.

        x: [B, in_channels, T, H, W]. timesteps: [B]. context: the text, [B, tokens, D].
        merge(number, h, clips): what replaces the skip connection of input block `number`, and, with the number after
            the last, the middle block's result. The input blocks themselves run without it.

        Returns [B, out_channels, T, H, W].
        """
        clips = len(x)
        emb = self.embed(timesteps, x)
        skips = self.encode(x, emb, *context)
        h = run_block(self.middle_block, skips[-1], emb, clips, *context)
        if merge is not None:
            skips = [merge(number, skip, clips) for number, skip in enumerate(skips)]
            h = merge(len(skips), h, clips)
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            h = run_block(block, h, emb, clips, *context, size=skips[-1].shape[2:] if skips else None)
        return rearrange(self.out(h), "(b t) c h w -> b c t h w", b=clips)
