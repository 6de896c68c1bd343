"""The self-attention layers of the host's image UNets (SD1.5, SD2.x, SDXL), with the keys of their patches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.model_patcher import ModelPatcher
from torch import device
from torch.nn import Module

from ...core.attention.bank import Level
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
    """One attn1. `block` is ("input" | "middle" | "output", id), `index` its position in the block's transformer.

    number: its position in the network. path: the name of its module in the network. halvings: how often the latents
    were halved before it. channels: of a token.
    """

    block: tuple[str, int]
    index: int
    number: int
    path: str
    halvings: int
    channels: int

    @property
    def pixels(self) -> int:
        """How many pixels a token spans."""
        return 8 << self.halvings

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in tokens, in latents of this size."""
        for _ in range(self.halvings):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def measure(self, height: int, width: int) -> Level:
        """Its level, in latents of this size."""
        return Level(self.pixels, math.prod(self.sides(height, width)), self.channels)

    @property
    def key(self) -> tuple[str, int, int]:
        return (*self.block, self.index)


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
    stages: list[tuple[tuple[str, int], str, Module]] = [
        (("input", i), f"input_blocks.{i}", block) for i, block in enumerate(unet.input_blocks)
    ]
    if unet.middle_block is not None:
        stages.append((("middle", 0), "middle_block", unet.middle_block))
    stages += [(("output", i), f"output_blocks.{i}", block) for i, block in enumerate(unet.output_blocks)]
    layers, halvings = [], 0
    for key, name, block in stages:
        for place, module in block.named_children():
            halvings += isinstance(module, Downsample) - isinstance(module, Upsample)
            if isinstance(module, SpatialVideoTransformer):
                raise ValueError(
                    f"MODEL is the video model {type(model.model).__name__}; "
                    "Consistent Self-Attention needs an image model, a UNet of SD1.5, SD2.x or SDXL."
                )
            if isinstance(module, SpatialTransformer):
                blocks: Any = module.transformer_blocks
                for i, transformer in enumerate(blocks):
                    if not transformer.disable_self_attn:
                        path = f"{name}.{place}.transformer_blocks.{i}.attn1"
                        layers.append(Layer(key, i, len(layers), path, halvings, transformer.attn1.to_q.in_features))
    return layers


def layers_in(layers: Sequence[Layer], patch_range: PatchRange) -> list[Layer]:
    """The layers of a UNet that share tokens. Raises ValueError for a choice of transformers."""
    choice = patch_range.unet_blocks if patch_range.blocks == "auto" else patch_range.blocks
    if choice not in BLOCKS:
        raise ValueError(
            f"blocks is {choice}, and a UNet has no such blocks; one of auto, {', '.join(BLOCKS)} is expected."
        )
    return [layer for layer in layers if layer.block[0] in BLOCKS[choice]]


def networks_of(guider) -> dict[device, Any]:
    """The network on each device that computes a sampling run."""
    patchers = [guider.model_patcher, *guider.model_options.get("multigpu_clones", {}).values()]
    return {patcher.load_device: patcher.model.diffusion_model for patcher in patchers}
