"""The Semantic Motion Predictor of StoryDiffusion (arXiv 2405.01434, section 3.2, equations 5 to 8).

P_1 ... P_L = B(K_1 ... K_L): transformer blocks over the tokens of all frames, which come in interpolated between those
of the given pictures. Here they predict the difference from the interpolation, with an output layer that begins at
zero, so an untrained predictor is the interpolation to the last bit; the given pictures' own tokens stay as they are.
"""

from torch import Tensor, nn

from ..blocks import FeedForward, SelfAttention
from ..ops import TORCH, Ops
from .config import PredictorConfig


class Block(nn.Module):
    """Pre-norm self-attention over the tokens of all frames, then a feed-forward layer. [B, L * N, width]."""

    def __init__(self, width: int, heads: int, ops: Ops = TORCH):
        super().__init__()
        self.norm1, self.norm2 = (ops.LayerNorm(width) for _ in range(2))
        self.attn = SelfAttention(width, heads, ops)
        self.ff = FeedForward(width, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class MotionPredictor(nn.Module):
    """Interpolated tokens [B, L, N, D] -> predicted ones."""

    def __init__(self, config: PredictorConfig, ops: Ops = TORCH):
        super().__init__()
        self.config = config
        width = config.width

        def drawn(*shape: int) -> nn.Parameter:
            return ops.parameter(0.02 * ops.normal(*shape))

        self.proj_in = ops.Linear(config.token_width, width)
        self.frame_position = drawn(config.frames, width)
        self.token_position = drawn(config.tokens, width)
        self.given_mark = drawn(width)  # of the frames that a picture was given for
        self.blocks = nn.ModuleList([Block(width, config.heads, ops) for _ in range(config.depth)])
        self.norm_out = ops.LayerNorm(width)
        self.proj_out = ops.Linear(width, config.token_width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, interpolated: Tensor, given: Tensor) -> Tensor:
        """interpolated: [B, L, N, D]; given: bool [L], the frames of the given pictures -> [B, L, N, D].

        Raises ValueError for more frames than the position table has rows, and for other tokens.
        """
        return interpolated + self.difference(interpolated, given)

    def difference(self, interpolated: Tensor, given: Tensor) -> Tensor:
        """What is added to the interpolation, [B, L, N, D]; zero where a picture was given."""
        config = self.config
        frames, tokens, token_width = interpolated.shape[1:]
        if frames > config.frames:
            raise ValueError(
                f"{frames} frames are asked of a motion predictor whose position table has {config.frames}; predict "
                "fewer, or splice several."
            )
        if (tokens, token_width) != (config.tokens, config.token_width):
            raise ValueError(
                f"{tokens} tokens of width {token_width} a frame are given to a motion predictor of {config.tokens} of "
                f"width {config.token_width}."
            )
        marks = given[:, None] * self.given_mark.to(interpolated)
        x = self.proj_in(interpolated) + self.token_position.to(interpolated)
        x = x + (self.frame_position[:frames].to(interpolated) + marks)[:, None]
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        difference = self.proj_out(self.norm_out(x)).view_as(interpolated)
        return difference * ~given[:, None, None]
