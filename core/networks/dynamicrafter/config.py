"""Sizes of DynamiCrafter's networks: as published, or read from the shapes of a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class UNetConfig:
    """The video UNet. attention: for each level, whether it has transformers. learned_gate: of the image tokens.

    default_fs: frame stride or frames a second where none is given. image_tokens: of each frame. text_tokens: the
    first so many of the context are text.
    """

    in_channels: int = 8
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    head_channels: int = 64
    context_dim: int = 1024
    learned_gate: bool = False
    default_fs: int = 24
    image_tokens: int = 16
    text_tokens: int = 77

    @property
    def widths(self) -> list[int]:
        return [self.model_channels * mult for mult in self.channel_mult]


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


INIT_HEADS = 8  # of the temporal transformer behind the first convolution


def read_unet_config(shapes: Shapes, default_fs: int = 24, image_tokens: int = 16) -> UNetConfig:
    """The configuration of a UNet from the shapes of its weights. Raises KeyError for another kind of network."""
    first = shapes["input_blocks.0.0.weight"]
    width = first[0]
    mults, blocks, attention = [], [], []
    level = None
    number = 1
    while any(f"input_blocks.{number}.{rest}" in shapes for rest in ("0.op.weight", "0.in_layers.2.weight")):
        if level is None or f"input_blocks.{number}.0.op.weight" in shapes:
            level = []
            blocks.append(level)
        if f"input_blocks.{number}.0.in_layers.2.weight" in shapes:
            level.append(number)
        number += 1
    for level in blocks:
        mults.append(shapes[f"input_blocks.{level[0]}.0.in_layers.2.weight"][0] // width)
        attention.append(f"input_blocks.{level[0]}.1.norm.weight" in shapes)
    middle = "middle_block.1.transformer_blocks.0.attn2."
    return UNetConfig(
        in_channels=first[1],
        out_channels=shapes["out.2.weight"][0],
        model_channels=width,
        channel_mult=tuple(mults),
        num_res_blocks=len(blocks[0]),
        attention=tuple(attention),
        head_channels=shapes["init_attn.0.proj_in.weight"][0] // INIT_HEADS,
        context_dim=shapes[middle + "to_k_ip.weight"][1],
        learned_gate=middle + "alpha" in shapes,
        default_fs=default_fs,
        image_tokens=image_tokens,
    )


def read_resampler_config(shapes: Shapes, dim_head: int = 64) -> ResamplerConfig:
    """The configuration of a Resampler from the shapes of its weights. dim_head is not in them."""
    _, queries, dim = shapes["latents"]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
    return ResamplerConfig(
        dim=dim,
        depth=depth,
        heads=shapes["layers.0.0.to_q.weight"][0] // dim_head,
        dim_head=dim_head,
        queries=queries,
        embedding_dim=shapes["proj_in.weight"][1],
        output_dim=shapes["proj_out.weight"][0],
        ff_mult=shapes["layers.0.1.1.weight"][0] // dim,
    )


def read_decoder_sizes(shapes: Shapes) -> dict:
    """Sizes of a ToonCrafter decoder, as it takes them, from the shapes of its weights."""
    levels = range(len({key.split(".")[1] for key in shapes if key.startswith("up.")}))
    widths = [shapes[f"up.{level}.block.0.conv1.weight"][0] for level in levels]
    blocks = len({key.split(".")[3] for key in shapes if key.startswith("up.0.block.")})
    return dict(
        channels=widths[0],
        channel_mult=[width // widths[0] for width in widths],
        num_res_blocks=blocks - 1,
        z_channels=shapes["conv_in.weight"][1],
    )
