"""The Semantic Motion Predictor of StoryDiffusion (arXiv 2405.01434, section 3.2, equations 5 to 8).

P_1 ... P_L = B(K_1 ... K_L): transformer blocks over the tokens of all frames, interpolated between those of the
keyframes. Here the blocks predict the difference from the interpolation, and their output layer is initialized with
zeros: an untrained predictor returns the interpolation to the last bit. The tokens of the keyframes do not change.
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

        def embedding(*shape: int) -> nn.Parameter:
            return ops.parameter(0.02 * ops.normal(*shape))

        self.proj_in = ops.Linear(config.token_width, width)
        self.frame_position = embedding(config.frames, width)
        self.token_position = embedding(config.tokens, width)
        self.given_mark = embedding(width)  # added at the keyframes
        self.blocks = nn.ModuleList([Block(width, config.heads, ops) for _ in range(config.depth)])
        self.norm_out = ops.LayerNorm(width)
        self.proj_out = ops.Linear(width, config.token_width)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, interpolated: Tensor, is_keyframe: Tensor) -> Tensor:
        """interpolated: [B, L, N, D]; is_keyframe: bool [L] -> [B, L, N, D].

        Raises ValueError for more frames than the position table has rows, and for other tokens.
        """
        return interpolated + self.difference(interpolated, is_keyframe)

    def difference(self, interpolated: Tensor, is_keyframe: Tensor) -> Tensor:
        """What is added to the interpolation, [B, L, N, D]; zero at the keyframes."""
        config = self.config
        frames, tokens, token_width = interpolated.shape[1:]
        if frames > config.frames:
            raise ValueError(
                f"The shot has {frames} frames, and the motion predictor knows at most {config.frames}; predict fewer "
                "frames, or several motions, and join them with Concat Motion."
            )
        if (tokens, token_width) != (config.tokens, config.token_width):
            raise ValueError(
                f"The frames have {tokens} tokens of width {token_width}; the motion predictor expects "
                f"{config.tokens} of width {config.token_width}."
            )
        marks = is_keyframe[:, None] * self.given_mark.to(interpolated)
        x = self.proj_in(interpolated) + self.token_position.to(interpolated)
        x = x + (self.frame_position[:frames].to(interpolated) + marks)[:, None]
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        difference = self.proj_out(self.norm_out(x)).view_as(interpolated)
        return difference * ~is_keyframe[:, None, None]
