"""What latent video UNets share: sizes, read from the shapes of the weights, and the input and output blocks.

Input blocks downsample level by level; output blocks upsample, and each also reads the skip connection of the input
block at its level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..weights.refusal import Misfit, Unreadable, check_bounds, shape_shown, sides
from .blocks import ResBlock, SpatialTransformer, TemporalTransformer, Upsample
from .ops import TORCH, Ops

Shapes = Mapping[str, Sequence[int]]

INIT_HEADS = 8  # of the temporal transformer behind the first convolution
MAX_LEVELS, MAX_BLOCKS = 8, 16  # of a file's network: levels, and residual blocks of each
MAX_CHANNELS = 2**14


@dataclass(frozen=True)
class UNetSizes:
    """attention: for each level, whether it has transformers. head_channels: width of an attention head.
    init_head_channels: in the temporal transformer behind the first convolution; None, as published: the same."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    head_channels: int = 64
    init_head_channels: int | None = None
    context_dim: int = 1024

    @property
    def widths(self) -> list[int]:
        return [self.model_channels * mult for mult in self.channel_mult]

    @property
    def init_width(self) -> int:
        return INIT_HEADS * (self.init_head_channels or self.head_channels)


def read_sizes(shapes: Shapes, init: str, context: str, head_channels: int | None = None) -> dict:
    """The fields of UNetSizes from the shapes of weights in the original layout. Raises KeyError for another network.

    init: prefix of the temporal transformer behind the first convolution. context: name of a weight that projects the
    context. head_channels: where the heads of that transformer have another width, which no shape tells.
    """
    width, in_channels = sides(shapes, "input_blocks.0.0.weight", 4)[:2]
    levels: list[list[int]] = [[]]
    init_head_channels = sides(shapes, f"{init}proj_in.weight")[0] // INIT_HEADS
    numbers = {name.split(".")[1] for name in shapes if name.startswith("input_blocks.")}
    number = 1
    while str(number) in numbers:
        if f"input_blocks.{number}.0.in_layers.2.weight" in shapes:
            levels[-1].append(number)
        else:
            levels.append([])
        number += 1
    depths = {len(level) for level in levels}
    check_bounds(levels=(len(levels), 1, MAX_LEVELS), blocks_of_a_level=(max(depths), 1, MAX_BLOCKS))
    if len(depths) > 1:
        listed = ", ".join(str(len(level)) for level in levels)
        raise Unreadable(f"has levels of {listed} blocks; as many in each were expected")
    check_bounds(channels=(width, 1, MAX_CHANNELS))
    out_channels = sides(shapes, "out.2.weight", 4)[0]
    mult = tuple(_times(shapes, f"input_blocks.{level[0]}.0.in_layers.2.weight", width) for level in levels)
    attention = tuple(f"input_blocks.{level[0]}.1.norm.weight" in shapes for level in levels)
    context_dim = sides(shapes, context, 2)[1]
    _check_heads(width, mult, attention, head_channels or init_head_channels)
    return dict(
        in_channels=in_channels,
        out_channels=out_channels,
        model_channels=width,
        channel_mult=mult,
        num_res_blocks=len(levels[0]),
        attention=attention,
        head_channels=head_channels or init_head_channels,
        init_head_channels=init_head_channels if head_channels else None,
        context_dim=context_dim,
    )


def _times(shapes: Shapes, key: str, width: int) -> int:
    """How many times as wide as the first level a level is."""
    found = sides(shapes, key, 4)
    if found[0] % width or found[0] > MAX_CHANNELS:
        raise Misfit(key, shape_shown(found), f"a multiple of {width:,} channels, up to {MAX_CHANNELS:,},")
    return found[0] // width


def _check_heads(model_channels: int, channel_mult: Sequence[int], attention: Sequence[bool], head_channels: int):
    """Every transformer's width is whole heads; the middle has one, whatever the last level has."""
    transforming = [mult for mult, transforms in zip(channel_mult, attention, strict=True) if transforms]
    for width in (model_channels * mult for mult in (*transforming, channel_mult[-1])):
        if head_channels < 1 or width % head_channels:
            raise Unreadable(
                f"has attention {width:,} wide and heads {head_channels:,} wide; a width of whole heads was expected"
            )


class LayerFactory:
    """Builds the layers of each block. cross_attention: class of the spatial transformers' second attention."""

    def __init__(self, config: UNetSizes, cross_attention: Callable[..., nn.Module], ops: Ops = TORCH):
        self.config, self.cross_attention, self.ops = config, cross_attention, ops

    def res(self, channels: int, out: int) -> ResBlock:
        return ResBlock(channels, out, 4 * self.config.model_channels, self.ops)

    def transformers(self, channels: int) -> list[nn.Module]:
        heads = channels // self.config.head_channels
        cross_attention = self.cross_attention(channels, self.config.context_dim, heads, ops=self.ops)
        spatial = SpatialTransformer(channels, heads, cross_attention, self.ops)
        return [spatial, TemporalTransformer(channels, heads, ops=self.ops)]

    def stage(self, level: int, channels: int, out: int) -> list[nn.Module]:
        return [self.res(channels, out), *(self.transformers(out) if self.config.attention[level] else [])]

    def middle(self, channels: int) -> list[nn.Module]:
        return [self.res(channels, channels), *self.transformers(channels), self.res(channels, channels)]


# stage(level, channels, out): the layers of one block, the residual block first.
Stage = Callable[[int, int, int], list[nn.Module]]


def build_input_blocks(sizes: UNetSizes, first: nn.Module, stage: Stage, downsample: Callable[[int], nn.Module]):
    """(blocks, channels of each block's skip connection). downsample(channels): the block between two levels."""
    blocks, skips = nn.ModuleList([first]), [sizes.model_channels]
    for level, out in enumerate(sizes.widths):
        for _ in range(sizes.num_res_blocks):
            blocks.append(nn.ModuleList(stage(level, skips[-1], out)))
            skips.append(out)
        if level < len(sizes.widths) - 1:
            blocks.append(downsample(out))
            skips.append(out)
    return blocks, skips


def build_output_blocks(
    sizes: UNetSizes, skips: Sequence[int], stage: Stage, upsample: Callable[[int], nn.Module]
) -> nn.ModuleList:
    """skips: channels, from `build_input_blocks`. upsample(channels): the last layer of every level but the finest."""
    blocks, skips = nn.ModuleList(), list(skips)
    channels = skips[-1]
    for level, out in reversed(list(enumerate(sizes.widths))):
        for number in range(sizes.num_res_blocks + 1):
            layers = stage(level, channels + skips.pop(), out)
            channels = out
            if level and number == sizes.num_res_blocks:
                layers.append(upsample(out))
            blocks.append(nn.ModuleList(layers))
    return blocks


def run_block(
    block: nn.Module, h: Tensor, emb: Tensor, clips: int, *context, size: Sequence[int] | None = None
) -> Tensor:
    """Run the layers of one block, each with its own inputs.

    h: [(B T), C, H, W]. emb: [B, E]. context: inputs of the cross-attentions. size: of `Upsample`'s result.
    """
    for layer in block.children():
        if isinstance(layer, ResBlock):
            h = layer(h, emb, clips)
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, *context)
        elif isinstance(layer, TemporalTransformer):
            h = layer(h, clips)
        elif isinstance(layer, Upsample):
            h = layer(h, size)
        else:
            h = layer(h)
    return h
