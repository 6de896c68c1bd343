"""DynamiCrafter's video UNet: Stable Diffusion 2's, with a temporal layer after every spatial one."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from ..blocks import (
    CONV_EPS,
    GROUPS,
    Downsample,
    TemporalTransformer,
    Upsample,
    embedding,
    timestep_embedding,
)
from ..ops import TORCH, Ops
from ..unet import INIT_HEADS, LayerFactory, build_input_blocks, build_output_blocks, run_block
from .attention import TextImageAttention
from .config import UNetConfig


class UNet(nn.Module):
    """Denoises a clip of latents, conditioned on text, on image tokens and on concatenated latents of the image."""

    def __init__(self, config: UNetConfig, ops: Ops = TORCH):
        super().__init__()
        self.config = config
        cross_attention = partial(TextImageAttention, learned_gate=config.learned_gate)
        layers = LayerFactory(config, cross_attention, ops)
        width = config.model_channels
        self.time_embed = embedding(width, 4 * width, ops)
        self.fps_embedding = embedding(width, 4 * width, ops)
        init_attn = TemporalTransformer(width, INIT_HEADS, config.init_width, linear=False, ops=ops)
        self.init_attn = nn.ModuleList([init_attn])
        first = ops.Conv2d(config.in_channels, width, 3, padding=1)
        self.input_blocks, skips = build_input_blocks(
            config,
            nn.ModuleList([first]),
            layers.stage,
            lambda channels: nn.ModuleList([Downsample(channels, ops=ops)]),
        )
        self.middle_block = nn.ModuleList(layers.middle(skips[-1]))
        self.output_blocks = build_output_blocks(
            config, skips, layers.stage, lambda channels: Upsample(channels, ops=ops)
        )
        self.out = nn.Sequential(
            ops.GroupNorm(GROUPS, config.widths[0], eps=CONV_EPS),
            nn.SiLU(),
            ops.Conv2d(config.widths[0], config.out_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, fs: Tensor | None = None, image_strength=(1.0, 1.0)
    ) -> Tensor:
        """What the model predicts of a clip.

        x: [B, in_channels, T, H, W], noisy latents concatenated with those of the image.
        timesteps: [B]. context: [B, 77 + tokens, D], text and then image tokens: 16 for each of T frames, in their
            order, or any other number, which all frames share. fs: [B] frame stride or frames a second, as trained.
        image_strength: of the image tokens in the outer and in the middle layers; 1 as published, 0 for none.

        Returns [B, out_channels, T, H, W].
        """
        config = self.config
        clips, frames = x.shape[0], x.shape[2]
        if fs is None:
            fs = torch.full((clips,), config.default_fs, device=x.device)
        emb = self.time_embed(timestep_embedding(timesteps, config.model_channels).to(x.dtype))
        emb = emb + self.fps_embedding(timestep_embedding(fs, config.model_channels).to(x.dtype))
        text, image = context[:, : config.text_tokens], context[:, config.text_tokens :]
        if image.shape[1] == config.image_tokens * frames:
            image = rearrange(image, "b (t l) d -> (b t) l d", t=frames)

        h, skips = rearrange(x, "b c t h w -> (b t) c h w"), []
        for number, block in enumerate(self.input_blocks):
            h = run_block(block, h, emb, clips, text, image, image_strength[self._is_middle(h, x)])
            if number == 0:
                h = run_block(self.init_attn, h, emb, clips)
            skips.append(h)
        h = run_block(self.middle_block, h, emb, clips, text, image, image_strength[1])
        for block in self.output_blocks:
            strength = image_strength[self._is_middle(h, x)]
            h = run_block(block, torch.cat([h, skips.pop()], dim=1), emb, clips, text, image, strength)
        return rearrange(self.out(h), "(b t) c h w -> b c t h w", b=clips)

    @staticmethod
    def _is_middle(h: Tensor, x: Tensor) -> bool:
        """Whether a block is one of the middle layers: at a quarter of the resolution and below."""
        return h.shape[-1] * 4 <= x.shape[-1]
