"""DynamiCrafter's video UNet: Stable Diffusion 2's, with a temporal layer behind every spatial one."""

from functools import partial

import torch
from torch import Tensor, nn

from ..blocks import (
    CONV_EPS,
    GROUPS,
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
from .attention import TextImageAttention
from .config import UNetConfig


class UNet(nn.Module):
    """Denoises a clip of latents, told by text, by image tokens and by latents beside its own.

    config: sizes.
    """

    def __init__(self, config: UNetConfig, ops: Ops = TORCH):
        super().__init__()
        self.config = config
        looks = partial(TextImageAttention, learned_gate=config.learned_gate)
        layers = Layers(config, looks, ops)
        width = config.model_channels
        self.time_embed = embedding(width, 4 * width, ops)
        self.fps_embedding = embedding(width, 4 * width, ops)
        behind = TemporalTransformer(width, INIT_HEADS, config.init_width, False, ops)
        self.init_attn = nn.ModuleList([behind])
        first = ops.Conv2d(config.in_channels, width, 3, padding=1)
        self.input_blocks, left = input_side(
            config,
            nn.ModuleList([first]),
            layers.stage,
            lambda channels: nn.ModuleList([Downsample(channels, ops=ops)]),
        )
        self.middle_block = nn.ModuleList(layers.middle(left[-1]))
        self.output_blocks = output_side(config, left, layers.stage, lambda channels: Upsample(channels, ops=ops))
        self.out = nn.Sequential(
            ops.GroupNorm(GROUPS, config.widths[0], eps=CONV_EPS),
            nn.SiLU(),
            ops.Conv2d(config.widths[0], config.out_channels, 3, padding=1),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, fs: Tensor | None = None, image_strength=(1.0, 1.0)
    ) -> Tensor:
        """What the model predicts of a clip.

        x: [B, in_channels, T, H, W], noisy latents and then those of the picture.
        timesteps: [B]. context: [B, 77 + tokens, D], text and then image tokens: 16 for each of T frames, in their
            order, or else any number that all frames read. fs: [B] frame stride or frames a second, as trained.
        image_strength: of the image tokens in the outer and in the middle layers; 1 as published, 0 without.

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
            image = image.reshape(clips * frames, config.image_tokens, -1)

        h, left = fold(x), []
        for number, block in enumerate(self.input_blocks):
            h = run(block, h, emb, clips, text, image, image_strength[self._is_middle(h, x)])
            if number == 0:
                h = run(self.init_attn, h, emb, clips)
            left.append(h)
        h = run(self.middle_block, h, emb, clips, text, image, image_strength[1])
        for block in self.output_blocks:
            strength = image_strength[self._is_middle(h, x)]
            h = run(block, torch.cat([h, left.pop()], dim=1), emb, clips, text, image, strength)
        return unfold(self.out(h), clips)

    @staticmethod
    def _is_middle(h: Tensor, x: Tensor) -> bool:
        """Whether a block stands among the middle layers: at a quarter of the resolution and below."""
        return h.shape[-1] * 4 <= x.shape[-1]
