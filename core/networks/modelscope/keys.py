"""The two published key layouts of ModelScope's network, both read into one.

Original: `input_blocks.1.0.in_layers.0.weight`, temporal projections as convolutions of one element. diffusers:
`down_blocks.0.resnets.0.norm1.weight`, temporal projections as linear layers. Ours has the names of the first and the
linear layers of the second.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..unet import UNetSizes

ENDS = {  # of the network, in diffusers' words and in ours
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "transformer_in.": "input_blocks.0.1.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
IN_BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)")
LORA = re.compile(r"(?:base_model\.model\.|unet\.)*(.+?)((?:[._]lora[._]|\.alpha$|\.dora_scale$).*)")
PLACES = {"resnets": "0.", "temp_convs": "0.temopral_conv.", "attentions": "1.", "temp_attentions": "2."}
IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def read_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network in our layout, from either published one. Names of other modules stay."""
    names = our_names(weights)
    return {names[key]: _as_linear(key, weight) for key, weight in weights.items()}


def _as_linear(key: str, weight: Tensor) -> Tensor:
    projection = key.endswith(("proj_in.weight", "proj_out.weight"))
    return weight.squeeze(-1) if projection and weight.ndim == 3 else weight


def our_names(keys: Iterable[str]) -> dict[str, str]:
    """{published name: ours}"""
    keys = list(keys)
    depth = sum(re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1\.weight", key) is not None for key in keys)
    transforming = {key.split(".")[1] for key in keys if re.match(r"up_blocks\.\d+\.attentions\.", key)}
    return {key: _our_name(key, depth, transforming) for key in keys}


def rename_lora(lora: Mapping[str, Tensor], sizes: UNetSizes) -> dict[str, Tensor]:
    """A LoRA of the UNet whose layers have diffusers' names, `unet.mid_block.temp_attentions.0.proj_in.lora_A.weight`
    in all spellings, under names by which the host finds them. What belongs to no such layer stays."""
    transforming = {str(level) for level, transforms in enumerate(reversed(sizes.attention)) if transforms}
    return {_lora_name(key, sizes.num_res_blocks, transforming): weight for key, weight in lora.items()}


def _lora_name(key: str, depth: int, transforming: set[str]) -> str:
    match = LORA.fullmatch(key)
    if match is None:
        return key
    layer, kind = match[1].replace(".processor.", "."), match[2]
    published = f"{layer}.0.weight" if layer.endswith(".to_out") else f"{layer}.weight"
    name = _our_name(published, depth, transforming)
    return key if name == published else f"diffusion_model.{name.removesuffix('.weight')}{kind}"


def _our_name(key: str, depth: int, transforming: set[str]) -> str:
    """depth: residual blocks of a level on the way down. transforming: levels on the way up that have transformers."""
    match = IN_BLOCK.fullmatch(key)
    if match is None:
        end = next((end for end in ENDS if key.startswith(end)), "")
        return ENDS.get(end, "") + key.removeprefix(end)
    side, level, part, number, rest = match.groups()
    if part == "resnets":
        name, _, rest = rest.partition(".")
        rest = f"{IN_RESNET[name]}.{rest}"
    place = PLACES.get(part, "")
    if side == "mid_block":  # a residual block, transformers, a residual block
        return f"middle_block.{'3' + place[1:] if number == '1' else place}{rest}"
    first = int(level) * (depth + 1)
    if part == "downsamplers":
        return f"input_blocks.{first + depth + 1}.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        return f"output_blocks.{first + depth}.{3 if level in transforming else 1}.{rest}"
    if side == "down_blocks":
        return f"input_blocks.{first + int(number) + 1}.{place}{rest}"
    return f"output_blocks.{first + int(number)}.{place}{rest}"
