"""CAM's feature injector (section 4.1): every position of a chunk attends over time to the frames before."""

from einops import rearrange
from torch import Tensor, nn

from ..blocks import GROUPS, TRANSFORMER_EPS, CrossAttention
from ..ops import TORCH, Ops


class Injector(nn.Module):
    """x + P_out(attention of P_in(norm(x)) to CAM's features), with no positional encoding. The features are not
    normalized.

    It is the same for the skip connections of ModelScope and of Stable Video Diffusion.
    head_channels: 64 as published, whatever the UNet's own.
    """

    def __init__(self, channels: int, head_channels: int = 64, ops: Ops = TORCH):
        super().__init__()
        self.norm = ops.GroupNorm(GROUPS, channels, eps=TRANSFORMER_EPS)
        self.proj_in = ops.Linear(channels, channels)
        self.attention = CrossAttention(channels, channels, channels // head_channels, ops)
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x: Tensor, features: Tensor, clips: int, strength: float = 1.0) -> Tensor:
        """x [(B T), C, H, W], features [(B M), C, H, W] of M frames, clips: B -> as x. strength: 0 returns x itself."""
        if not strength:
            return x
        clip = self.norm(rearrange(x, "(b t) c h w -> b c t h w", b=clips))  # statistics of the whole clip
        h = self.proj_in(rearrange(clip, "b c t h w -> (b h w) t c"))
        h = self.attention(h, rearrange(features, "(b m) c h w -> (b h w) m c", b=clips))
        h = rearrange(self.proj_out(h), "(b h w) t c -> (b t) c h w", b=clips, h=x.shape[2])
        return x + strength * h
