"""StreamingT2V's published key layout, written: the way back from ours, which core/networks/streaming/keys.py reads."""

from collections.abc import Mapping

from storyreel.core.networks.modelscope.keys import ENDS, IN_RESNET
from storyreel.core.networks.streaming import keys
from torch import Tensor

OURS = {ours: published for published, ours in ENDS.items()}
RESNET = {ours: published for published, ours in IN_RESNET.items()}
MERGER = "cross_attention_merger_{}.temporal_transformer.{}"


def published(network: Mapping[str, Tensor], expander: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The weights of `StreamingT2V` and of a `TokenExpander` as a published file has them. depth: residual blocks of a
    level on the way down."""
    middle = str(max(int(key.split(".")[1]) for key in network if key.startswith("injectors.")))
    named = {keys.EXPANDER + key: weight for key, weight in expander.items()}
    for key, weight in network.items():
        if key.startswith("extractor."):
            named[keys.EXTRACTOR + _in_extractor(key.removeprefix("extractor."), depth)] = weight
        elif key.startswith("injectors."):
            _, number, rest = key.split(".", 2)
            place = "mid_block" if number == middle else f"down_blocks.{number}"
            named[keys.UNET + MERGER.format(place, rest)] = weight
        else:
            named[keys.UNET + _in_unet(key, depth)] = weight
    return named


def _in_extractor(key: str, depth: int) -> str:
    inside = key.removeprefix("frame_encoder.")
    return _in_unet(key, depth) if inside == key else keys.FRAME_ENCODER + inside


def _in_unet(key: str, depth: int) -> str:
    """diffusers' name of a weight of ModelScope's UNet."""
    for ours, name in OURS.items():
        if key.startswith(ours):
            return name + key.removeprefix(ours)
    side, rest = key.split(".", 1)
    if side == "middle_block":
        layer, rest = rest.split(".", 1)
        return "mid_block." + (_in_block("0", 1, rest) if layer == "3" else _in_block(layer, 0, rest))
    block, layer, rest = rest.split(".", 2)
    if side == "input_blocks":
        level, number = divmod(int(block) - 1, depth + 1)
        if layer == "op":
            return f"down_blocks.{level}.downsamplers.0.conv.{rest}"
        return f"down_blocks.{level}." + _in_block(layer, number, rest)
    level, number = divmod(int(block), depth + 1)
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    return f"up_blocks.{level}." + _in_block(layer, number, rest)


def _in_block(layer: str, number: int, rest: str) -> str:
    if layer == "0" and rest.startswith("temopral_conv."):
        return f"temp_convs.{number}.{rest.removeprefix('temopral_conv.')}"
    if layer == "0":
        name, _, end = rest.rpartition(".")
        return f"resnets.{number}.{RESNET[name]}.{end}"
    return f"{'attentions' if layer == '1' else 'temp_attentions'}.{number}.{rest}"
