"""Sizes of DynamiCrafter's networks: as published, or read from the shapes of a checkpoint."""

from dataclasses import dataclass

from ...weights.refusal import Unreadable, check_bounds, sides
from ..unet import MAX_BLOCKS, MAX_CHANNELS, MAX_LEVELS, Shapes, UNetSizes, read_sizes

MAX_LAYERS = 64  # of an image projection


@dataclass(frozen=True)
class UNetConfig(UNetSizes):
    """The video UNet. learned_gate: of the image tokens.

    default_fs: frame stride or frames a second where none is given. image_tokens: of each frame. text_tokens: the
    first so many of the context are text.
    """

    in_channels: int = 8
    learned_gate: bool = False
    default_fs: int = 24
    image_tokens: int = 16
    text_tokens: int = 77


@dataclass(frozen=True)
class ResamplerConfig:
    """The image projection. queries: all of them, those of a frame times the frames."""

    dim: int = 1024
    depth: int = 4
    heads: int = 12
    dim_head: int = 64
    queries: int = 256
    embedding_dim: int = 1280
    output_dim: int = 1024
    ff_mult: int = 4


def read_unet_config(
    shapes: Shapes, default_fs: int = 24, image_tokens: int = 16, head_channels: int | None = None
) -> UNetConfig:
    """The configuration of a UNet from the shapes of its weights. Raises KeyError for another kind of network.

    head_channels: see `read_sizes`; None as published.
    """
    middle = "middle_block.1.transformer_blocks.0.attn2."
    return UNetConfig(
        **read_sizes(shapes, "init_attn.0.", middle + "to_k_ip.weight", head_channels),
        learned_gate=middle + "alpha" in shapes,
        default_fs=default_fs,
        image_tokens=image_tokens,
    )


def read_resampler_config(shapes: Shapes, dim_head: int = 64) -> ResamplerConfig:
    """The configuration of a Resampler from the shapes of its weights. dim_head is not in them."""
    _, queries, dim = sides(shapes, "latents", 3)
    depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
    inner = sides(shapes, "layers.0.0.to_q.weight", 2)[0]
    check_bounds(layers_of_its_image_projection=(depth, 1, MAX_LAYERS))
    if dim_head < 1 or inner % dim_head:
        raise Unreadable(
            f"has an image projection with attention {inner:,} wide and heads {dim_head:,} wide; a width of "
            "whole heads was expected"
        )
    return ResamplerConfig(
        dim=dim,
        depth=depth,
        heads=inner // dim_head,
        dim_head=dim_head,
        queries=queries,
        embedding_dim=sides(shapes, "proj_in.weight", 2)[1],
        output_dim=sides(shapes, "proj_out.weight", 2)[0],
        ff_mult=sides(shapes, "layers.0.1.1.weight", 2)[0] // dim,
    )


def read_decoder_sizes(shapes: Shapes) -> dict:
    """Sizes of a ToonCrafter decoder, as it takes them, from the shapes of its weights."""
    levels = range(len({key.split(".")[1] for key in shapes if key.startswith("up.")}))
    blocks = len({key.split(".")[3] for key in shapes if key.startswith("up.0.block.")})
    check_bounds(levels_of_its_decoder=(len(levels), 1, MAX_LEVELS), blocks_of_a_level=(blocks, 1, MAX_BLOCKS))
    widths = [sides(shapes, f"up.{level}.block.0.conv1.weight", 4)[0] for level in levels]
    check_bounds(channels_of_its_decoder=(max(widths), 1, MAX_CHANNELS))
    return dict(
        channels=widths[0],
        channel_mult=[width // widths[0] for width in widths],
        num_res_blocks=blocks - 1,
        z_channels=sides(shapes, "conv_in.weight", 4)[1],
    )
