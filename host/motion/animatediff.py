"""AnimateDiff's motion modules in the host's own UNet: inserted for each forward pass, removed after it.

The modules are a ModelPatcher of their own, so the host loads and offloads them. All branches of a graph share one
UNet, so no module may stay in it.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import comfy.model_management
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, UNetModel, Upsample
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...core.networks.animatediff.config import MotionConfig, read_config
from ...core.networks.animatediff.module import ClipNorm, MotionModules
from ...core.networks.ops import Ops
from ..common.folders import path_of
from ..common.loading import (
    check_nothing_else,
    check_whole,
    describe,
    judging,
    patcher_of,
    put_weights,
    read_with_metadata,
    reject_incomplete,
    shapes_of,
)
from ..common.ops import host_ops
from ..common.video_model import HostAttention

NODE = "Apply Motion"
FOLDER = "animatediff_models"
EXPECTED = "a motion module of AnimateDiff for SD1.5 (v1, v2 or v3) was expected"


class HostMotionModules(MotionModules):
    """The modules with the host's attention and, by default, its layers."""

    def __init__(self, config: MotionConfig, ops: Ops | None = None):
        attention = HostAttention()
        super().__init__(config, replace(ops or host_ops(), attention=attention))
        self.attention = attention


def load(name: str) -> ModelPatcher:
    """Read a file of the folder. Raises ValueError for a file of another kind or of another family."""
    weights = read_weights(name, read_with_metadata(path_of(FOLDER, name))[0])
    with reject_incomplete(name, "AnimateDiff's modules", EXPECTED):
        with judging("motion module of AnimateDiff"):
            config = read_config(shapes_of(weights))
            count, stored = comfy.utils.calculate_parameters(weights), comfy.utils.weight_dtype(weights)
            dtype = comfy.model_management.unet_dtype(model_params=count, weight_dtype=stored)
            network = HostMotionModules(config, host_ops(device="meta", dtype=dtype))
            check_whole(network, weights)
        check_nothing_else(network, weights)
        # Positions keep their format: 8 bits are not enough for them.
        put_weights(network, {key: t if key.endswith(".pe") else t.to(dtype) for key, t in weights.items()})
    return patcher_of(network)


def read_weights(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the modules by their published names. Raises ValueError for modules of another family."""
    found = {key.removeprefix("module."): weight for key, weight in weights.items() if "motion_modules." in key}
    if not found:
        raise ValueError(f"{name} is {describe(weights)}; {EXPECTED}.")
    if any("_lora." in key for key in found):
        raise ValueError(f"{name} is a MotionLoRA, which patches a motion module; {EXPECTED}.")
    if any(key.endswith("pos_encoder.positional_encoding") for key in found):
        raise ValueError(f"{name} is a motion module of Hotshot-XL; {EXPECTED}.")
    if not any(key.endswith("pos_encoder.pe") for key in found):
        raise ValueError(f"{name} holds no position table, like the files of AnimateLCM and diffusers; {EXPECTED}.")
    levels = {key.split(".")[1] for key in found if key.startswith("down_blocks.")}
    widths = found.get("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight")
    if levels == {"0", "1", "2"} and widths is not None and widths.shape == (320,):
        raise ValueError(f"{name} is a motion module for SDXL; {EXPECTED}.")
    return found


def unet_of(model: ModelPatcher) -> UNetModel:
    """The UNet inside a MODEL. Raises ValueError if it is not one of SD1.5's kind."""
    unet, config = model.get_model_object("diffusion_model"), model.model.model_config
    published = type(config).__module__ == comfy.supported_models.__name__
    if not isinstance(unet, UNetModel) or published and not isinstance(config, comfy.supported_models.SD15):
        raise ValueError(
            f"the MODEL is {type(config).__name__.removesuffix('Config')}; motion modules and IP-Adapter "
            "expect SD1.5 or a model fine-tuned from it."
        )
    return unet


def blocks_of(unet: UNetModel) -> dict[tuple[str, int], nn.Sequential]:
    """The blocks that hold residual blocks, in the order of a forward pass."""
    blocks = {("input", number): block for number, block in enumerate(unet.input_blocks)}
    if unet.middle_block is not None:
        blocks["middle", 0] = unet.middle_block
    blocks |= {("output", number): block for number, block in enumerate(unet.output_blocks)}
    found = {place: cast(nn.Sequential, block) for place, block in blocks.items()}
    return {place: block for place, block in found.items() if any(isinstance(layer, ResBlock) for layer in block)}


def check_fit(name: str, unet: UNetModel, config: MotionConfig) -> None:
    """Raise ValueError unless every block of the UNet has a module of its width; the middle need not."""
    widths = {
        place: next(layer.out_channels for layer in block if isinstance(layer, ResBlock))
        for place, block in blocks_of(unet).items()
    }
    if config.middle is None:
        widths.pop(("middle", 0))
    if {place: config.widths[module] for module, place in config.places.items()} != widths:
        modules, blocks = (", ".join(map(str, sizes)) for sizes in (config.widths.values(), widths.values()))
        raise ValueError(
            f"{name} has modules of widths {modules}, and the MODEL has blocks of widths {blocks}; use a "
            "motion module for this kind of model."
        )


class ClipLayer(nn.Module):
    """Calls a layer with the number of clips in the batch, which the host's blocks do not pass on.

    anchored: the host puts an anchor frame before each clip, for models with a causal first frame, and drops its
    result. It would shift the positions of all frames, so the layer is called without it.
    """

    def __init__(self, layer: nn.Module, clips: int, anchored: bool):
        super().__init__()
        self.layer, self.clips, self.anchored = layer, clips, anchored

    def forward(self, x: Tensor) -> Tensor:
        if not self.anchored:
            return self.layer(x, self.clips)
        anchor, frames = x.unflatten(0, (self.clips, -1)).tensor_split([1], dim=1)
        frames = self.layer(frames.flatten(0, 1), self.clips).unflatten(0, (self.clips, -1))
        return torch.cat([anchor, frames], dim=1).flatten(0, 1)


@contextlib.contextmanager
def inserted_modules(unet: UNetModel, modules: HostMotionModules, rows: int, options: dict):
    """Context manager: `modules` are in `unet` for a forward pass of so many rows with these transformer_options.

    Raises ValueError for more frames than the position table has.
    """
    clips = len(options["cond_or_uncond"])
    anchor = getattr(options.get("context_window"), "causal_anchor_index", None)
    anchored = anchor is not None and anchor >= 0
    frames, known = rows // clips - anchored, modules.config.frames
    if frames > known:
        raise ValueError(
            f"{NODE}: the clip has {frames} frames, and the motion module supports at most {known}; use fewer frames, "
            f"or Context Windows of at most {known} frames."
        )
    with contextlib.ExitStack() as stack:
        blocks = blocks_of(unet)
        if modules.config.whole_clip:
            layers = [layer for block in blocks.values() for layer in block if isinstance(layer, ResBlock)]
            for norms in (*(part for layer in layers for part in (layer.in_layers, layer.out_layers)), unet.out):
                stack.callback(norms.__setitem__, 0, norms[0])
                norms[0] = ClipLayer(ClipNorm(norms[0]), clips, anchored)
        for place, module in modules.placed.items():
            block = blocks[place]
            before_last = isinstance(block[-1], (Upsample, Downsample)) or place[0] == "middle"
            index = len(block) - before_last
            block.insert(index, ClipLayer(module, clips, anchored))
            stack.callback(block.__delitem__, index)
        stack.enter_context(modules.attention.use(options))
        yield
