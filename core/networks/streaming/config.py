"""Sizes of StreamingT2V's networks: as published, or read from the shapes of a checkpoint."""

from dataclasses import dataclass, field

from ...weights.refusal import Misfit, check_bounds, shape_shown, sides
from ..modelscope.config import UNetConfig, read_unet_config
from ..unet import Shapes

MAX_WIDTHS = 16


@dataclass(frozen=True)
class StreamingConfig:
    """unet: the base, whose encoder CAM has a copy of. frame_widths: of CAM's frame encoder.

    text_tokens, image_tokens: as many of each as APM mixes.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    frame_widths: tuple[int, ...] = (32, 96, 256, 512)
    text_tokens: int = 77
    image_tokens: int = 16


def read_config(unet: Shapes, extractor: Shapes, head_channels: int | None = None) -> StreamingConfig:
    """From the shapes of base and CAM, in our layout. Raises KeyError for other networks.

    head_channels: of the base, see `read_sizes`.
    """
    mixing = "middle_block.1.transformer_blocks.0.attn2.conv.weight"
    text, both, _ = found = sides(unet, mixing, 3)
    if both <= text:
        raise Misfit(mixing, shape_shown(found), f"more than {text:,} tokens from {text:,}")
    return StreamingConfig(
        read_unet_config(unet, head_channels=head_channels),
        read_frame_encoder(extractor, "frame_encoder.")["widths"],
        text,
        both - text,
    )


def read_frame_encoder(shapes: Shapes, prefix: str = "") -> dict:
    """Sizes of a frame encoder, as it takes them."""
    widths = [sides(shapes, f"{prefix}conv_in.weight", 4)[0]]
    while (name := f"{prefix}blocks.{2 * len(widths) - 1}.weight") in shapes:
        widths.append(sides(shapes, name, 4)[0])
    check_bounds(sizes_of_its_frame_encoder=(len(widths), 1, MAX_WIDTHS))
    return dict(
        widths=tuple(widths),
        out_channels=sides(shapes, f"{prefix}conv_out.weight", 4)[0],
        normalized=f"{prefix}norms.0.weight" in shapes,
    )


def read_token_expander(shapes: Shapes) -> dict:
    """Sizes of APM's token expander, as it takes them."""
    inner, dim = sides(shapes, "context_embedding.0.weight", 2)
    return dict(dim=dim, inner=inner, count=sides(shapes, "context_embedding.2.weight", 2)[0] // dim)
