"""What models of videos train with: layers that are quick on a CPU, and a start from the picture model."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from storyreel.core.networks.blocks import TemporalConv, TemporalTransformer
from storyreel.core.networks.ops import Ops
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs) -> Tensor:
    """softmax(q k / sqrt(d) + mask) v, by plain products, which on a CPU and at these sizes beat the fused kernels, in
    bfloat16 above all. q [B, N, heads d], k and v [B, M, heads d], mask [N, M] -> [B, N, heads d]."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = (logits if mask is None else logits + mask).softmax(-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The same on [B, heads, N, d], as transformers have it. Returns [B, N, heads d]."""
    return attend(*(t.transpose(1, 2).flatten(2) for t in (q, k, v)), heads)


class GroupNorm(nn.GroupNorm):
    """Quick on a CPU only where the channels come first in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class TemporalConvolution(nn.Conv3d):
    """A convolution of 3 x 1 x 1 as one over two dimensions, time and place, which a CPU is better at."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.flatten(3)
        return nn.functional.conv2d(x.flatten(3), kernel, self.bias, padding=(1, 0)).unflatten(3, x.shape[3:])


class Operations:
    """Layers for training, in the place of torch.nn's."""

    Linear, Conv1d, Conv2d, LayerNorm = nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm
    Conv3d = TemporalConvolution
    GroupNorm = GroupNorm


OPS = Ops(Operations, attend)


@torch.no_grad()
def start_from(unet: nn.Module, pictures: Mapping[str, Tensor], moved: Mapping[str, str | None]) -> None:
    """Give a video UNet all that a picture UNet knows. Its layers of time leave a frame as it is.

    moved: {where a layer of the picture UNet stands: where the video UNet has it, None if nowhere}, as prefixes of
    names. All others stand where they stood. Raises KeyError for a weight that the video UNet does not know.
    """
    weights = {}
    for name, tensor in pictures.items():
        there = next((prefix for prefix in moved if name.startswith(prefix)), "")
        if (here := moved.get(there, "")) is not None:
            weights[here + name.removeprefix(there)] = tensor
    _, unknown = unet.load_state_dict(weights, strict=False)
    if unknown:
        raise KeyError(unknown[0])
    for module in unet.modules():
        if isinstance(module, TemporalConv):
            silence(module.conv4[-1])
        elif isinstance(module, TemporalTransformer):
            silence(module.proj_out)


@contextlib.contextmanager
def without_time(unet: nn.Module) -> Iterator[None]:
    """Have a video UNet look at single frames: its layers of time do nothing and are not trained."""
    layers = [module for module in unet.modules() if isinstance(module, (TemporalConv, TemporalTransformer))]
    for layer in layers:
        layer.requires_grad_(False).forward = lambda x, *_: x
    try:
        yield
    finally:
        for layer in layers:
            del layer.requires_grad_(True).forward


@torch.no_grad()
def silence(*layers: nn.Module) -> None:
    """Have layers give zeros, until they have learned better."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
