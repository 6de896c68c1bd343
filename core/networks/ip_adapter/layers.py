"""Decoupled cross-attention (IP-Adapter, arXiv 2308.06721, section 3.2.2, equations 4 and 5).

out = to_out(Attn(q, K_text, V_text) + scale Attn(q, K_image, V_image)): the queries are shared, keys and values of the
image have layers of their own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from ...weights.refusal import Misfit, check_bounds, shape_shown, sides
from ..blocks import attend_shared
from ..ops import TORCH, Ops

Shapes = Mapping[str, Sequence[int]]

MOST_LAYERS = 256
NUMBER = re.compile(r"\d{1,4}", re.ASCII)


class ImageLayer(nn.Module):
    """Keys and values of the image for one cross-attention layer."""

    def __init__(self, token_width: int, width: int, ops: Ops = TORCH):
        super().__init__()
        self.attend = ops.attention
        self.to_k_ip, self.to_v_ip = (ops.Linear(token_width, width, bias=False) for _ in range(2))

    def forward(self, q: Tensor, tokens: Tensor, heads: int) -> Tensor:
        """q [R, N, width]; tokens [S, M, token_width], a row for every R / S rows of q -> what is added, like q."""
        return attend_shared(self.attend, q, self.to_k_ip(tokens), self.to_v_ip(tokens), heads)


class ImageLayers(nn.ModuleDict):
    """Those of a whole UNet, {published number: layer}."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], ops: Ops = TORCH):
        """sizes: {number: (width of the tokens, of the layer)}, see `read_layers`."""
        super().__init__({number: ImageLayer(*widths, ops) for number, widths in sizes.items()})

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """{number: (width of the tokens, of the layer)}"""
        weights = {number: cast(ImageLayer, layer).to_k_ip.weight for number, layer in self.items()}
        return {number: (weight.shape[1], weight.shape[0]) for number, weight in weights.items()}


def read_layers(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """{number: (width of the tokens, of the layer)} from the shapes of the weights."""
    suffix = ".to_k_ip.weight"
    found = {key.removesuffix(suffix): key for key in shapes if key.endswith(suffix)}
    check_bounds(layers=(len(found), 1, MOST_LAYERS))
    for number, key in found.items():
        if NUMBER.fullmatch(number) is None:
            raise Misfit(key, shape_shown(shapes[key]), f"a number before {suffix}")
    matrices = {number: sides(shapes, key, 2) for number, key in found.items()}
    return {number: (token_width, width) for number, (width, token_width) in matrices.items()}


def numbers(inputs: int, middle: int, outputs: int) -> list[str]:
    """The published numbers of a UNet's transformer blocks, in the order of a forward pass.

    inputs, middle, outputs: how many each side has. Self- and cross-attention layers are counted in turn, and the
    middle last.
    """
    place = [*range(inputs), *range(inputs + outputs, inputs + outputs + middle), *range(inputs, inputs + outputs)]
    return [str(2 * number + 1) for number in place]
