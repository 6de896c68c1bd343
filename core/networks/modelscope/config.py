"""Sizes of ModelScope's video UNet: as published, or read from the shapes of a checkpoint."""

from dataclasses import dataclass

from ..unet import Shapes, UNetSizes, read_sizes


@dataclass(frozen=True)
class UNetConfig(UNetSizes):
    """The text-to-video UNet; 1.7 billion parameters by default, of which every level is published.

    extra_rows: of zeros that the way down adds above and below, and the way up cuts off. 1 in MS-Vid2Vid, whose weights
    have the same names and shapes: nothing in the file tells them apart.
    """

    extra_rows: int = 0


def read_unet_config(shapes: Shapes, extra_rows: int = 0, head_channels: int | None = None) -> UNetConfig:
    """The configuration of a UNet from the shapes of its weights, in the original layout. head_channels: see
    `read_sizes`.

    Raises KeyError for another kind of network.
    """
    context = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    return UNetConfig(**read_sizes(shapes, "input_blocks.0.1.", context, head_channels), extra_rows=extra_rows)
