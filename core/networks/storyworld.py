"""Storyworld's autoencoder: 128 x 128 images to 16 x 16 latents and back, trainable in minutes on a CPU.

Most layers work at a quarter of the image's resolution and below, a few at half of it (pixel shuffles are the stem and
the head), which is cheap and keeps outlines sharp. No normalization and no attention, as in TAESD: it
may be trained on crops, and a latent depends on its neighborhood only.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, silu

from .ops import TORCH, Ops

LATENT_CHANNELS = 12
BOUND = 3.0  # latents lie between -BOUND and BOUND
HALF, QUARTER, EIGHTH = 32, 64, 128  # widths by resolution
DECODER_QUARTER = 96


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), [B, width, H, W]."""

    def __init__(self, width: int, ops: Ops = TORCH):
        super().__init__()
        self.conv1 = ops.Conv2d(width, width, 3, padding=1)
        self.conv2 = ops.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(silu(self.conv1(silu(x))))


def blocks(count: int, width: int, ops: Ops) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width, ops) for _ in range(count)))


class ImageEncoder(nn.Module):
    """Image [B, 3, 8 H, 8 W] from -1 to 1 -> latent [B, 12, H, W]."""

    def __init__(self, ops: Ops = TORCH):
        super().__init__()
        self.stem = ops.Conv2d(3 * 2**2, HALF, 3, padding=1)
        self.at_half = blocks(1, HALF, ops)
        self.to_quarter = ops.Conv2d(HALF, QUARTER, 3, stride=2, padding=1)
        self.at_quarter = blocks(2, QUARTER, ops)
        self.to_eighth = ops.Conv2d(QUARTER, EIGHTH, 3, stride=2, padding=1)
        self.at_eighth = blocks(1, EIGHTH, ops)
        self.out = ops.Conv2d(EIGHTH, LATENT_CHANNELS, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.at_half(self.stem(pixel_unshuffle(image, 2)))
        x = self.at_quarter(self.to_quarter(silu(x)))
        x = self.at_eighth(self.to_eighth(x))
        return torch.tanh(self.out(silu(x)) / BOUND) * BOUND


class LatentDecoder(nn.Module):
    """Latent [B, 12, H, W] -> image [B, 3, 8 H, 8 W], about -1 to 1."""

    def __init__(self, ops: Ops = TORCH):
        super().__init__()
        self.stem = ops.Conv2d(LATENT_CHANNELS, EIGHTH, 3, padding=1)
        self.at_eighth = blocks(3, EIGHTH, ops)
        self.to_quarter = ops.Conv2d(EIGHTH, DECODER_QUARTER, 3, padding=1)
        self.at_quarter = blocks(2, DECODER_QUARTER, ops)
        self.to_half = ops.Conv2d(DECODER_QUARTER, HALF * 2**2, 3, padding=1)
        self.at_half = blocks(2, HALF, ops)
        self.out = ops.Conv2d(HALF, 3 * 2**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.at_eighth(self.stem(latent))
        x = self.at_quarter(self.to_quarter(interpolate(x, scale_factor=2, mode="nearest")))
        x = self.at_half(pixel_shuffle(self.to_half(silu(x)), 2))
        return pixel_shuffle(self.out(silu(x)), 2)


class Autoencoder(nn.Module):
    """Encoder and decoder with the interface of the host's first stage models."""

    def __init__(self, ops: Ops = TORCH):
        super().__init__()
        self.encoder = ImageEncoder(ops)
        self.decoder = LatentDecoder(ops)

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)
