"""What latent video UNets have in common: sizes, read from the shapes of the weights, and the two sides.

The input side goes down to small pictures, level by level; the output side comes back up, and each of its blocks also
sees what the input block across left for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

Shapes = Mapping[str, Sequence[int]]

INIT_HEADS = 8  # of the temporal transformer behind the first convolution


@dataclass(frozen=True)
class UNetSizes:
    """attention: for each level, whether it has transformers. head_channels: width of an attention head."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    head_channels: int = 64
    context_dim: int = 1024

    @property
    def widths(self) -> list[int]:
        return [self.model_channels * mult for mult in self.channel_mult]


def read_sizes(shapes: Shapes, init: str, context: str) -> dict:
    """The fields of UNetSizes from the shapes of weights in the original layout. Raises KeyError for another network.

    init: prefix of the temporal transformer behind the first convolution. context: name of a weight that projects the
    context.
    """
    first = shapes["input_blocks.0.0.weight"]
    width = first[0]
    levels: list[list[int]] = [[]]
    number = 1
    while any(name.startswith(f"input_blocks.{number}.") for name in shapes):
        if f"input_blocks.{number}.0.in_layers.2.weight" in shapes:
            levels[-1].append(number)
        else:
            levels.append([])
        number += 1
    return dict(
        in_channels=first[1],
        out_channels=shapes["out.2.weight"][0],
        model_channels=width,
        channel_mult=tuple(shapes[f"input_blocks.{level[0]}.0.in_layers.2.weight"][0] // width for level in levels),
        num_res_blocks=len(levels[0]),
        attention=tuple(f"input_blocks.{level[0]}.1.norm.weight" in shapes for level in levels),
        head_channels=shapes[f"{init}proj_in.weight"][0] // INIT_HEADS,
        context_dim=shapes[context][1],
    )


# stage(level, channels, out): the layers of one block, the residual block first.
Stage = Callable[[int, int, int], list[nn.Module]]


def input_side(sizes: UNetSizes, first: nn.Module, stage: Stage, shrink: Callable[[int], nn.Module]):
    """(blocks, the width of what each leaves for the output side). shrink(channels): the block between two levels."""
    blocks, left = nn.ModuleList([first]), [sizes.model_channels]
    for level, out in enumerate(sizes.widths):
        for _ in range(sizes.num_res_blocks):
            blocks.append(nn.ModuleList(stage(level, left[-1], out)))
            left.append(out)
        if level < len(sizes.widths) - 1:
            blocks.append(shrink(out))
            left.append(out)
    return blocks, left


def output_side(sizes: UNetSizes, left: Sequence[int], stage: Stage, grow: Callable[[int], nn.Module]) -> nn.ModuleList:
    """The blocks. left: what `input_side` said. grow(channels): the last layer of a level but the finest."""
    blocks, left = nn.ModuleList(), list(left)
    channels = left[-1]
    for level, out in reversed(list(enumerate(sizes.widths))):
        for number in range(sizes.num_res_blocks + 1):
            layers = stage(level, channels + left.pop(), out)
            channels = out
            if level and number == sizes.num_res_blocks:
                layers.append(grow(out))
            blocks.append(nn.ModuleList(layers))
    return blocks
