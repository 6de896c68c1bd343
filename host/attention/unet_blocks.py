"""The self-attention layers of the host's image UNets (SD1.5, SD2.x, SDXL), with the keys of their patches."""

from dataclasses import dataclass

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch.nn import Module

from .families import FAMILIES
from .sampling_state import PatchRange

BLOCKS = {
    "up": ("output",),
    "middle and up": ("middle", "output"),
    "middle": ("middle",),
    "down": ("input",),
    "all": ("input", "middle", "output"),
}


@dataclass(frozen=True)
class Layer:
    """One attn1. `block` is ("input" | "middle" | "output", id), `index` its position in the block's transformer."""

    block: tuple[str, int]
    index: int


def self_attention_layers(model: ModelPatcher) -> list[Layer]:
    """All self-attention layers, in the order of a forward pass.

    Raises ValueError if the model is not an image UNet.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"MODEL is a {type(model.model).__name__} with the network {type(unet).__name__}; "
            "Consistent Self-Attention works with the UNets of SD1.5, SD2.x and SDXL, and with the transformers "
            f"{', '.join(family.name for family in FAMILIES)}."
        )
    stages: list[tuple[tuple[str, int], Module]] = [(("input", i), block) for i, block in enumerate(unet.input_blocks)]
    if unet.middle_block is not None:
        stages.append((("middle", 0), unet.middle_block))
    stages += [(("output", i), block) for i, block in enumerate(unet.output_blocks)]
    layers = []
    for key, block in stages:
        for module in block.children():
            if isinstance(module, SpatialVideoTransformer):
                raise ValueError(
                    f"MODEL is the video model {type(model.model).__name__}; "
                    "Consistent Self-Attention needs an image model, a UNet of SD1.5, SD2.x or SDXL."
                )
            if isinstance(module, SpatialTransformer):
                layers += [
                    Layer(key, i)
                    for i, transformer in enumerate(module.transformer_blocks)
                    if not transformer.disable_self_attn
                ]
    return layers


def choose_stages(patch_range: PatchRange) -> tuple[str, ...]:
    """The stages of a UNet that share tokens. Raises ValueError for a choice of transformers."""
    choice = patch_range.unet_blocks if patch_range.blocks == "auto" else patch_range.blocks
    if choice not in BLOCKS:
        raise ValueError(
            f"blocks is {choice}, and a UNet has no such blocks; one of auto, {', '.join(BLOCKS)} is expected."
        )
    return BLOCKS[choice]
