"""Storyworld's autoencoder: 128 x 128 pictures to 16 x 16 latents and back, small enough to train in minutes on a CPU.

It works at a quarter of the picture's resolution and below (a pixel shuffle is its stem and its head), which is what
makes it cheap. No normalisation and no attention, as in TAESD: it may be trained on crops, and a latent depends on its
neighbourhood only.
"""

import torch
from torch import Tensor, nn

LATENT_CHANNELS = 8
SHUFFLE = 4  # the stem's and the head's own part of the eightfold scale
BOUND = 3.0  # latents lie between -BOUND and BOUND


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), [B, width, H, W]."""

    def __init__(self, width: int, operations=nn):
        super().__init__()
        self.conv1 = operations.Conv2d(width, width, 3, padding=1)
        self.conv2 = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class Encoder(nn.Module):
    """Picture [B, 3, 8 H, 8 W] from -1 to 1 -> latent [B, 8, H, W]."""

    def __init__(self, fine: int, coarse: int, blocks: tuple[int, int], operations=nn):
        super().__init__()
        self.stem = operations.Conv2d(3 * SHUFFLE**2, fine, 3, padding=1)
        self.fine = nn.Sequential(*(ResidualBlock(fine, operations) for _ in range(blocks[0])))
        self.down = operations.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, operations) for _ in range(blocks[1])))
        self.out = operations.Conv2d(coarse, LATENT_CHANNELS, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.stem(nn.functional.pixel_unshuffle(picture, SHUFFLE))
        x = self.out(torch.relu(self.coarse(self.down(self.fine(x)))))
        return torch.tanh(x / BOUND) * BOUND


class Decoder(nn.Module):
    """Latent [B, 8, H, W] -> picture [B, 3, 8 H, 8 W], about -1 to 1."""

    def __init__(self, fine: int, coarse: int, blocks: tuple[int, int], operations=nn):
        super().__init__()
        self.stem = operations.Conv2d(LATENT_CHANNELS, coarse, 3, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, operations) for _ in range(blocks[1])))
        self.up = operations.Conv2d(coarse, fine, 3, padding=1)
        self.fine = nn.Sequential(*(ResidualBlock(fine, operations) for _ in range(blocks[0])))
        self.out = operations.Conv2d(fine, 3 * SHUFFLE**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.coarse(self.stem(latent))
        x = self.fine(self.up(nn.functional.interpolate(x, scale_factor=2, mode="nearest")))
        return nn.functional.pixel_shuffle(self.out(torch.relu(x)), SHUFFLE)


class Autoencoder(nn.Module):
    """The two halves behind the interface of the host's first stage models."""

    def __init__(self, operations=nn):
        super().__init__()
        self.encoder = Encoder(fine=64, coarse=128, blocks=(2, 2), operations=operations)
        self.decoder = Decoder(fine=96, coarse=128, blocks=(2, 3), operations=operations)

    def encode(self, picture: Tensor) -> Tensor:
        return self.encoder(picture)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)
