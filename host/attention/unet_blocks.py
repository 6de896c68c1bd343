"""The self-attention layers of the host's picture UNets (SD1.5, SD2.x, SDXL), as patches can reach them."""

from dataclasses import dataclass

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class Layer:
    """One attn1. `block` is ("input" | "middle" | "output", id), `index` its place in the block's transformer."""

    block: tuple[str, int]
    index: int


def self_attention_layers(model: ModelPatcher) -> list[Layer]:
    """All self-attention layers, in the order in which a forward pass meets them.

    Raises ValueError if the model is not a picture UNet.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"MODEL is a {type(model.model).__name__} built on {type(unet).__name__}; "
            "Consistent Self-Attention works on the UNets of SD1.5, SD2.x and SDXL."
        )
    stages = [(("input", i), block) for i, block in enumerate(unet.input_blocks)]
    stages.append((("middle", 0), unet.middle_block))
    stages += [(("output", i), block) for i, block in enumerate(unet.output_blocks)]
    layers = []
    for key, block in stages:
        for module in block:
            if isinstance(module, SpatialVideoTransformer):
                raise ValueError(
                    f"MODEL is the video model {type(model.model).__name__}, whose batch is time; "
                    "Consistent Self-Attention works on the UNets of SD1.5, SD2.x and SDXL."
                )
            if isinstance(module, SpatialTransformer):
                layers += [
                    Layer(key, i)
                    for i, transformer in enumerate(module.transformer_blocks)
                    if not transformer.disable_self_attn
                ]
    return layers
