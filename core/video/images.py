"""Images brought to the sizes that networks need."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def fit(images: Tensor, width: int, height: int) -> Tensor:
    """Scale images [B, H, W, 3] until they cover width x height, and cut the middle out. Antialiased, bilinear."""
    tall, wide = images.shape[1:3]
    scale = max(height / tall, width / wide)
    size = max(height, round(tall * scale)), max(width, round(wide * scale))
    x = images.movedim(-1, 1)
    if size != (tall, wide):
        x = interpolate(x, size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return x[:, :, top : top + height, left : left + width].movedim(1, -1)


def clip_pixels(images: Tensor, size: int = 224, mean=CLIP_MEAN, std=CLIP_STD) -> Tensor:
    """The input of DynamiCrafter's image encoder for images [B, H, W, 3]: [B, 3, size, size].

    The whole image is squeezed to a square, whatever its shape, by the arithmetic of kornia's `resize`: where it
    shrinks, a Gaussian blur of half as many pixels as it shrinks by, then bicubic with aligned corners. No clamp.
    """
    x = images.movedim(-1, 1).float() * 2 - 1
    factors = [side / size for side in x.shape[-2:]]
    if max(factors) > 1:
        x = _blur(x, [max((factor - 1) / 2, 0.001) for factor in factors])
    x = interpolate(x, (size, size), mode="bicubic", align_corners=True)
    return normalize((x + 1) / 2, mean, std)


def square_pixels(
    images: Tensor, resize: int, crop: int, mean=CLIP_MEAN, std=CLIP_STD, round_offset: bool = False
) -> Tensor:
    """The input of an image encoder for images [B, H, W, 3] from 0 to 1: [B, 3, crop, crop].

    As the image processors of transformers compute it: the shorter side becomes `resize` pixels long, bicubic and
    antialiased, and the center square is cut out. round_offset: where half a pixel would be cut off at both ends, round
    it to the even number as torchvision does, and with it open_clip; transformers rounds it down.
    """
    x = images[..., :3].movedim(-1, 1).float()
    scale = resize / min(x.shape[-2:])
    size = [max(resize, int(side * scale)) for side in x.shape[-2:]]
    if size != list(x.shape[-2:]):
        x = interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (round((side - crop) / 2) if round_offset else (side - crop) // 2 for side in size)
    return normalize(x[..., top : top + crop, left : left + crop], mean, std)


def normalize(pixels: Tensor, mean=CLIP_MEAN, std=CLIP_STD) -> Tensor:
    """Pixels [B, 3, H, W] from 0 to 1, each channel by its mean and standard deviation in the encoder's training."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return (pixels - mean) / std


def _blur(x: Tensor, sigmas: list[float]) -> Tensor:
    """Separable Gaussian blur of [B, C, H, W] with reflected borders; sigmas: along height and width."""
    kernels = [_gaussian(sigma).to(x) for sigma in sigmas]
    tall, wide = (len(kernel) // 2 for kernel in kernels)
    x = pad(x, (wide, wide, tall, tall), mode="reflect")
    channels = x.shape[1]
    x = conv2d(x, kernels[0][None, None, :, None].expand(channels, 1, -1, 1), groups=channels)
    return conv2d(x, kernels[1][None, None, None, :].expand(channels, 1, 1, -1), groups=channels)


def _gaussian(sigma: float) -> Tensor:
    """Of an odd number of elements, four sigmas wide and at least 3, with sum 1."""
    length = int(max(4 * sigma, 3))
    length += 1 - length % 2
    positions = torch.arange(length) - length // 2
    kernel = torch.exp(-(positions**2) / (2 * sigma**2))
    return kernel / kernel.sum()
