"""From an image encoder to IP-Adapter's tokens (arXiv 2308.06721, section 3.2.1).

The plain adapter projects the image's embedding to a few tokens. IP-Adapter-Plus resamples all tokens of the encoder's
penultimate layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...weights.refusal import sides
from ..dynamicrafter.config import ResamplerConfig, read_resampler_config
from ..dynamicrafter.resampler import Resampler
from ..ops import TORCH, Ops

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class EmbeddingConfig:
    """The plain adapter's: queries tokens of width output_dim."""

    embedding_dim: int = 1024
    queries: int = 4
    output_dim: int = 768


class EmbeddingProjection(nn.Module):
    """The embedding of an image [B, embedding_dim] -> [B, queries, output_dim]."""

    def __init__(self, config: EmbeddingConfig, ops: Ops = TORCH):
        super().__init__()
        self.config = config
        self.proj = ops.Linear(config.embedding_dim, config.queries * config.output_dim)
        self.norm = ops.LayerNorm(config.output_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (-1, self.config.output_dim)))


def read_projection(shapes: Shapes, dim_head: int = 64) -> EmbeddingConfig | ResamplerConfig:
    """The kind and its sizes from the shapes of the weights. Raises KeyError if they are of neither kind."""
    if "latents" in shapes:
        return read_resampler_config(shapes, dim_head)
    (wide, embedding), (width,) = sides(shapes, "proj.weight", 2), sides(shapes, "norm.weight", 1)
    return EmbeddingConfig(embedding, wide // width, width)


def build_projection(
    config: EmbeddingConfig | ResamplerConfig,
    ops: Ops = TORCH,
) -> EmbeddingProjection | Resampler:
    if isinstance(config, EmbeddingConfig):
        return EmbeddingProjection(config, ops)
    return Resampler(config, ops)
