"""From pixels to what trained networks make of them, and back."""

from collections.abc import Callable

import numpy as np
import torch
from storyreel.core.training import autocast
from storyreel.core.video.images import normalize
from torch import Tensor, nn

from .trainer import device

BATCH = 64
LAST, PENULTIMATE, EMBEDS = 0, 1, 2  # outputs of the image tower


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> [B, 3, H, W] from -1 to 1 on the training device."""
    tensor = torch.from_numpy(np.array(images)).to(device()).permute(0, 3, 1, 2).float()
    return (tensor / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_images(decoded: Tensor) -> np.ndarray:
    """[B, 3, H, W] from -1 to 1 -> uint8 [B, H, W, 3]."""
    return ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def encoder_input(images: np.ndarray) -> Tensor:
    """uint8 [B, 128, 128, 3] -> the host's input of its image encoder, which resizes nothing of that size."""
    return normalize((to_tensor(images) + 1) / 2)


@torch.no_grad()
def in_batches(encode: Callable[[np.ndarray], Tensor], images: np.ndarray) -> Tensor:
    """float16 rows that `encode` makes of images."""
    parts = []
    for start in range(0, len(images), BATCH):
        with autocast(device()):
            parts.append(encode(images[start : start + BATCH]).half().cpu())
    return torch.cat(parts)


def encode(autoencoder: nn.Module, images: np.ndarray) -> Tensor:
    """float16 latents [count, 12, 16, 16] of uint8 pictures."""
    return in_batches(lambda some: autoencoder.encode(to_tensor(some)), images)


@torch.no_grad()
def decode(autoencoder: nn.Module, latents: Tensor) -> np.ndarray:
    """uint8 [count, 128, 128, 3] of latents [count, 12, 16, 16]."""
    parts = []
    for some in latents.split(BATCH):
        with autocast(device()):
            parts.append(to_images(autoencoder.decode(some.to(device()).float())))
    return np.concatenate(parts)


def vision_output(vision: nn.Module, images: np.ndarray, output: int) -> Tensor:
    """float16 of uint8 pictures: LAST or PENULTIMATE, all tokens of that layer before its norm [count, N, width];
    EMBEDS, the projection [count, width]."""
    return in_batches(lambda some: vision(pixel_values=encoder_input(some), intermediate_output=-2)[output], images)


def of_frames(encode: Callable[..., Tensor], network: nn.Module, clips: np.ndarray, *options) -> Tensor:
    """What `encode` makes of every frame of uint8 clips [count, T, H, W, 3]: [count, T, ...]."""
    return encode(network, clips.reshape(-1, *clips.shape[2:]), *options).unflatten(0, clips.shape[:2])
