"""CAM's encoder of the frames before a chunk, E_cond of section 4.1: pixels to features at latent resolution."""

from collections.abc import Sequence
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import TORCH, Ops


class FrameEncoder(nn.Module):
    """Frames [N, 3, 8 H, 8 W] from -1 to 1 -> [N, out_channels, H, W].

    normalized: layer norms over the channels of each position, after the inner convolutions. StreamingSVD has them. The
    paper mentions them, but the published ModelScope weights do not have them.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 96, 256, 512),
        out_channels: int = 320,
        normalized: bool = False,
        ops: Ops = TORCH,
    ):
        super().__init__()

        def conv(channels: int, out: int, stride: int = 1):
            return ops.Conv2d(channels, out, 3, stride=stride, padding=1)

        self.conv_in = conv(3, widths[0])
        self.blocks, self.norms = nn.ModuleList(), nn.ModuleList()
        for channels, out in pairwise(widths):
            self.blocks.extend([conv(channels, channels), conv(channels, out, stride=2)])
            for width in (channels, out):
                self.norms.append(ops.LayerNorm(width) if normalized else nn.Identity())
        self.conv_out = conv(widths[-1], out_channels)

    def forward(self, frames: Tensor) -> Tensor:
        h = F.silu(self.conv_in(frames))
        for conv, norm in zip(self.blocks, self.norms, strict=True):
            h = norm(rearrange(conv(h), "n c h w -> n h w c"))
            h = F.silu(rearrange(h, "n h w c -> n c h w"))
        return self.conv_out(h)
