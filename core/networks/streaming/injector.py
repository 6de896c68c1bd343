"""CAM's feature injector (section 4.1): every place of a chunk looks along time at the frames before it."""

from torch import Tensor, nn

from ..blocks import GROUPS, TRANSFORMER_EPS, CrossAttention, along_time, in_frames, unfold
from ..ops import TORCH, Ops


class Injector(nn.Module):
    """x + P_out(attention of P_in(norm(x)) to the memory), with no position. The memory is not normalised.

    ModelScope's and Stable Video Diffusion's skip connections are served alike.
    head_channels: 64 as published, whatever the network's own.
    """

    def __init__(self, channels: int, head_channels: int = 64, ops: Ops = TORCH):
        super().__init__()
        self.norm = ops.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS)
        self.proj_in = ops.Linear(channels, channels)
        self.attention = CrossAttention(channels, channels, channels // head_channels, ops)
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x: Tensor, memory: Tensor, clips: int, strength: float = 1.0) -> Tensor:
        """x [(B T), C, H, W], memory [(B M), C, H, W], clips: B -> as x. strength: of what is added; 0 is x itself."""
        if not strength:
            return x
        clip = unfold(x, clips)
        h = self.proj_in(along_time(self.norm(clip)))  # the norm is over the whole clip
        h = self.proj_out(self.attention(h, along_time(unfold(memory, clips))))
        return x + strength * in_frames(h, clip)
