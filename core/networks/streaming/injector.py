"""CAM's feature injector (section 4.1): every place of a chunk looks along time at the frames before it."""

from torch import Tensor, nn

from ..attend import Attend, attend_plain
from ..blocks import GROUPS, TRANSFORMER_EPS, CrossAttention, along_time, in_frames, unfold


class Injector(nn.Module):
    """x + P_out(attention of P_in(norm(x)) to the memory), with no position. The memory is not normalised.

    ModelScope's and Stable Video Diffusion's skip connections are served alike.
    head_channels: 64 as published, whatever the network's own.
    """

    def __init__(self, channels: int, operations=nn, attend: Attend = attend_plain, head_channels: int = 64, **made):
        super().__init__()
        self.norm = operations.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS, **made)
        self.proj_in = operations.Linear(channels, channels, **made)
        self.attention = CrossAttention(channels, channels, channels // head_channels, operations, attend, **made)
        self.proj_out = operations.Linear(channels, channels, **made)

    def forward(self, x: Tensor, memory: Tensor, clips: int, strength: float = 1.0) -> Tensor:
        """x [(B T), C, H, W], memory [(B M), C, H, W], clips: B -> as x. strength: of what is added; 0 is x itself."""
        if not strength:
            return x
        clip = unfold(x, clips)
        h = self.proj_in(along_time(self.norm(clip)))  # the norm is over the whole clip
        h = self.proj_out(self.attention(h, along_time(unfold(memory, clips))))
        return x + strength * in_frames(h, clip)
