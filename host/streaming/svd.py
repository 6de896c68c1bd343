"""StreamingSVD: CAM on the host's own Stable Video Diffusion, through the patches of its UNet.

The UNet is the host's, unchanged. Before each of its forward passes CAM's feature extractor, the same UNet without
output blocks, reads the first frames of the chunk and the frames before it; injectors add its features to the skip
connections and the middle block. The frames are part of the CONDITIONING as with StreamingT2V; there is no APM.
"""

from collections.abc import Mapping

import comfy.conds
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from einops import rearrange
from torch import Tensor, nn

from ...core.networks.streaming import keys
from ...core.networks.streaming.config import read_frame_encoder
from ...core.networks.streaming.frame_encoder import FrameEncoder
from ...core.networks.streaming.injector import Injector
from ...core.weights.refusal import Unreadable, check_bounds, sides
from ..common.loading import check_whole, fill, judging, set_precision, shapes_of, take
from ..common.ops import host_ops
from ..common.video_model import ClipCondition, check_frames, refuse_windows
from .modelscope import CAM_FRAMES, CAM_STRENGTH

UNET, CONTROL = "model.diffusion_model.", "controlnet."
KEY = "storyreel_cam"
MAX_WEIGHTS, MAX_BLOCKS = 2**13, 64  # that the host is asked to inspect
FEATURES, STRENGTH = "cam_frame_features", "cam_strength"  # conditions of a forward pass


def _split(control: dict) -> tuple[dict, dict]:
    """Weights under CONTROL: (of the frame encoder, of the extractor)."""
    encoder = {
        key.removeprefix(keys.FRAME_ENCODER): t for key, t in control.items() if key.startswith(keys.FRAME_ENCODER)
    }
    return encoder, {key: t for key, t in control.items() if not key.startswith(keys.FRAME_ENCODER)}


class Cam(nn.Module):
    """The feature extractor and the injectors.

    config: of the host's UNet. injectors, control: weights, from which sizes are read: those of `keys.read_injectors`
    and those under CONTROL.
    """

    def __init__(self, config: Mapping, injectors: dict, control: dict, device, dtype, operations):
        super().__init__()
        sizes = read_frame_encoder(shapes_of(_split(control)[0]))
        ops = host_ops(operations, device, dtype)
        self.frame_encoder = FrameEncoder(**sizes, ops=ops)
        self.extractor = UNetModel(**{**config, "device": device, "dtype": dtype, "operations": operations})
        self.extractor.output_blocks = nn.ModuleList()
        self.extractor.add_module("out", nn.Identity())
        count = len(self.extractor.input_blocks) + 1
        widths = [sides(shapes_of(injectors), f"{number}.norm.weight", 1)[0] for number in range(count)]
        self.injectors = nn.ModuleList([Injector(width, ops=ops) for width in widths])

    def parts(self, injectors: dict, control: dict) -> list[tuple[nn.Module, dict]]:
        """Each network with its weights from the file."""
        encoder, rest = _split(control)
        return [(self.frame_encoder, encoder), (self.extractor, rest), (self.injectors, injectors)]

    def load(self, injectors: dict, control: dict, device) -> None:
        """Load the weights of a file."""
        for part, weights in self.parts(injectors, control):
            formats = {key: weight.dtype for key, weight in part.state_dict().items()}  # not the same for every weight
            part.load_state_dict({key: weights[key].to(device, dtype) for key, dtype in formats.items()}, assign=True)
        self.requires_grad_(False).eval()
        comfy.model_management.archive_model_dtypes(self)

    def encode_frames(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """CAM's features of frames [M, H, W, 3], 0 to 1, once a chunk: [M, channels, H / 8, W / 8]."""
        return self.frame_encoder((frames.movedim(-1, 1) * 2 - 1).to(dtype))

    def features(self, x, timesteps, context, y, options: dict, frame_features: Tensor, clips: int) -> list[Tensor]:
        """Features of each input block and of the middle block, for each clip's first frames [(B M), C, h, w]."""
        frames, skips = len(frame_features) // clips, []

        def first(rows: Tensor) -> Tensor:
            return rearrange(rearrange(rows, "(b t) ... -> b t ...", b=clips)[:, :frames], "b m ... -> (b m) ...")

        def collect(h, options):
            skips.append(h + frame_features if options["block"] == ("input", 0) else h)
            return skips[-1]

        # Other patches and the running wrapper belong to the base UNet.
        options = {name: value for name, value in options.items() if name not in ("patches", "patches_replace")}
        options |= {"wrappers": {}, "patches": {"input_block_patch": [collect]}}
        inputs = (first(rows) for rows in (x, timesteps, context, y))
        middle = self.extractor(*inputs, transformer_options=options, num_video_frames=frames)
        return [*skips, middle]

    def run(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        """Wrapper around a forward pass of the host's UNet: rows are frames, clip after clip."""
        frame_features, strength = kwargs.pop(FEATURES, None), kwargs.pop(STRENGTH, 1.0)
        if frame_features is None:
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        clips = len(x) // kwargs["num_video_frames"]
        features = self.features(x, timesteps, context, y, transformer_options, frame_features, clips)

        def after_middle(state):
            return state | {"h": self.injectors[-1](state["h"], features[-1], clips, strength)}

        def before_output(h, skip, options):
            number = len(features) - 2 - options["block"][1]
            return h, self.injectors[number](skip, features[number], clips, strength)

        patches = dict(transformer_options.get("patches", {}))  # other nodes' patches run after these
        for name, patch in (("middle_block_after_patch", after_middle), ("output_block_patch", before_output)):
            patches[name] = [patch, *patches.get(name, [])]
        return executor(x, timesteps, context, y, control, transformer_options | {"patches": patches}, **kwargs)


class StreamingSVD(comfy.model_base.SVD_img2vid):
    """The host's model, whose CONDITIONING may hold CAM's frames. Without them, or at strength 0, it is unchanged."""

    model_name = "StreamingSVD"
    kind = None  # set by the loader
    cam: Cam

    def extra_conds(self, **kwargs):
        conds, frames, strength = super().extra_conds(**kwargs), kwargs.get(CAM_FRAMES), kwargs.get(CAM_STRENGTH, 1.0)
        if frames is not None and strength:
            check_frames(frames, kwargs["noise"])
            frame_features = self.cam.encode_frames(frames.to(kwargs["device"]), self.get_dtype_inference())
            conds |= {FEATURES: ClipCondition(frame_features), STRENGTH: comfy.conds.CONDConstant(strength)}
        return conds

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=()):
        if cond_key == FEATURES:
            refuse_windows(self.model_name, window)
            return cond_value
        return super().resize_cond_for_context_window(cond_key, cond_value, window, x_in, device, retain_index_list)


def judge(weights: dict) -> tuple[comfy.supported_models.SVD_img2vid, dict, dict, dict]:
    """(how the host sees the UNet; weights of the UNet, of CAM's injectors, and those under CONTROL) of a file
    whose weights are those of its networks, to the last shape. Raises as `build_model`."""
    names = [key.removeprefix(UNET) for key in weights if key.startswith(UNET)]
    blocks = {name.split(".")[1] for name in names if name.startswith("input_blocks.")}
    check_bounds(weights_of_its_UNet=(len(names), 1, MAX_WEIGHTS), blocks=(len(blocks), 1, MAX_BLOCKS))
    described = comfy.model_detection.detect_unet_config(weights, UNET)
    if described is None:
        raise Unreadable("has a UNet that the host does not know; Stable Video Diffusion's was expected")
    config = comfy.supported_models.SVD_img2vid(described)
    unet, control = take(weights, UNET), take(weights, CONTROL)
    injectors = keys.read_injectors(unet)
    unet = {key: weight for key, weight in unet.items() if keys.INJECTOR.fullmatch(key) is None}
    on_meta = dict(device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    check_whole(UNetModel(**{**config.unet_config, **on_meta}), unet)
    for part, found in Cam(config.unet_config, injectors, control, **on_meta).parts(injectors, control):
        check_whole(part, found)
    return config, unet, injectors, control


def build_model(weights: dict, precision=None):
    """The MODEL. Its weights are moved out of `weights`.

    Raises KeyError, Misfit and Unreadable for weights of another model, before any memory is taken.
    """
    with judging("checkpoint of StreamingSVD"):
        config, unet, injectors, control = judge(weights)
    count = sum(comfy.utils.calculate_parameters(part) for part in (unet, control, injectors))
    set_precision(config, count, precision, stored=comfy.utils.weight_dtype(unet))
    device = comfy.model_management.unet_inital_load_device(count, config.unet_config["dtype"])
    model = StreamingSVD(config, device=device)
    operations = comfy.ops.pick_operations(config.unet_config["dtype"], config.manual_cast_dtype)
    model.cam = Cam(config.unet_config, injectors, control, "meta", config.unet_config["dtype"], operations)
    model.cam.load(injectors, control, device)
    patcher = fill(model, unet)
    wrapped = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patcher.add_wrapper_with_key(wrapped, KEY, model.cam.run)
    return patcher
