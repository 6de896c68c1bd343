"""StreamingSVD: CAM beside the host's own Stable Video Diffusion, through the seams of its UNet.

The UNet is the host's, untouched. Before each of its forward passes CAM's feature extractor, the same UNet without its
way up, looks at the first frames of the chunk and at those before it; injectors bring what it finds to the skips and
behind the middle. The frames travel in the CONDITIONING as with StreamingT2V; there is no APM.
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
MOST_WEIGHTS, MOST_BLOCKS = 2**13, 64  # that the host is asked to look through
SEEN, STRENGTH = "cam_seen", "cam_strength"  # among the conditions of a forward pass


def _split(control: dict) -> tuple[dict, dict]:
    """Weights under CONTROL: (of the frame encoder, of the extractor)."""
    encoder = {
        key.removeprefix(keys.FRAME_ENCODER): t for key, t in control.items() if key.startswith(keys.FRAME_ENCODER)
    }
    return encoder, {key: t for key, t in control.items() if not key.startswith(keys.FRAME_ENCODER)}


class Cam(nn.Module):
    """The feature extractor and the injectors.

    config: of the host's UNet. injectors, control: the weights, whose sizes it takes, see `keys.read_injectors`, and
    what stood under CONTROL.
    """

    def __init__(self, config: Mapping, injectors: dict, control: dict, device, dtype, operations):
        super().__init__()
        sizes = read_frame_encoder(shapes_of(_split(control)[0]))
        ops = host_ops(operations, device, dtype)
        self.frame_encoder = FrameEncoder(**sizes, ops=ops)
        self.extractor = UNetModel(**{**config, "device": device, "dtype": dtype, "operations": operations})
        self.extractor.output_blocks, self.extractor.out = nn.ModuleList(), nn.Identity()
        count = len(self.extractor.input_blocks) + 1
        widths = [sides(shapes_of(injectors), f"{number}.norm.weight", 1)[0] for number in range(count)]
        self.injectors = nn.ModuleList([Injector(width, ops=ops) for width in widths])

    def parts(self, injectors: dict, control: dict) -> list[tuple[nn.Module, dict]]:
        """Each of its networks, and the weights of a file that are for it."""
        encoder, rest = _split(control)
        return [(self.frame_encoder, encoder), (self.extractor, rest), (self.injectors, injectors)]

    def take(self, injectors: dict, control: dict, device) -> None:
        """Bring the weights of a file into place."""
        for part, weights in self.parts(injectors, control):
            formats = {key: weight.dtype for key, weight in part.state_dict().items()}  # not of every weight the same
            part.load_state_dict({key: weights[key].to(device, dtype) for key, dtype in formats.items()}, assign=True)
        self.requires_grad_(False).eval()
        comfy.model_management.archive_model_dtypes(self)

    def see(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """What CAM sees of frames [M, H, W, 3], 0 to 1, for all steps of a chunk: [M, channels, H / 8, W / 8]."""
        return self.frame_encoder((frames.movedim(-1, 1) * 2 - 1).to(dtype))

    def features(self, x, timesteps, context, y, options: dict, seen: Tensor, clips: int) -> list[Tensor]:
        """What each input block leaves and the middle's result, of each clip's first frames [(B M), C, h, w]."""
        frames, left = len(seen) // clips, []

        def first(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (clips, -1))[:, :frames].flatten(0, 1)

        def look(h, options):
            left.append(h + seen if options["block"] == ("input", 0) else h)
            return left[-1]

        # Neither other patches nor the wrapper under way are of this network.
        options = {name: value for name, value in options.items() if name not in ("patches", "patches_replace")}
        options |= {"wrappers": {}, "patches": {"input_block_patch": [look]}}
        told = (first(rows) for rows in (x, timesteps, context, y))
        middle = self.extractor(*told, transformer_options=options, num_video_frames=frames)
        return [*left, middle]

    def look_back(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        """The wrapper around a forward pass of the host's UNet: rows are frames, clip after clip."""
        seen, strength = kwargs.pop(SEEN, None), kwargs.pop(STRENGTH, 1.0)
        if seen is None:
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        clips = len(x) // kwargs["num_video_frames"]
        memory = self.features(x, timesteps, context, y, transformer_options, seen, clips)

        def behind_middle(state):
            return state | {"h": self.injectors[-1](state["h"], memory[-1], clips, strength)}

        def beside_output(h, skip, options):
            number = len(memory) - 2 - options["block"][1]
            return h, self.injectors[number](skip, memory[number], clips, strength)

        patches = dict(transformer_options.get("patches", {}))  # others' come after ours and see what was brought
        for name, patch in (("middle_block_after_patch", behind_middle), ("output_block_patch", beside_output)):
            patches[name] = [patch, *patches.get(name, [])]
        return executor(x, timesteps, context, y, control, transformer_options | {"patches": patches}, **kwargs)


class StreamingSVD(comfy.model_base.SVD_img2vid):
    """The host's model, whose CONDITIONING may hold CAM's frames. Without them, or at strength 0, it is no other."""

    named = "StreamingSVD"
    kind = None  # what the loader took the file for
    cam: Cam

    def extra_conds(self, **kwargs):
        conds, frames, strength = super().extra_conds(**kwargs), kwargs.get(CAM_FRAMES), kwargs.get(CAM_STRENGTH, 1.0)
        if frames is not None and strength:
            check_frames(frames, kwargs["noise"])
            seen = self.cam.see(frames.to(kwargs["device"]), self.get_dtype_inference())
            conds |= {SEEN: ClipCondition(seen), STRENGTH: comfy.conds.CONDConstant(strength)}
        return conds

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=()):
        if cond_key == SEEN:
            refuse_windows(self.named, window)
            return cond_value
        return super().resize_cond_for_context_window(cond_key, cond_value, window, x_in, device, retain_index_list)


def judge(weights: dict) -> tuple[comfy.supported_models.SVD_img2vid, dict, dict, dict]:
    """(how the host sees the UNet; weights of the UNet, of CAM's injectors, and of what stood under CONTROL) of a file
    whose weights are those of its networks, to the last shape. Raises as `build_model`."""
    names = [key.removeprefix(UNET) for key in weights if key.startswith(UNET)]
    blocks = {name.split(".")[1] for name in names if name.startswith("input_blocks.")}
    check_bounds(weights_of_its_UNet=(len(names), 1, MOST_WEIGHTS), blocks=(len(blocks), 1, MOST_BLOCKS))
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
    model.cam.take(injectors, control, device)
    patcher = fill(model, unet)
    wrapped = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patcher.add_wrapper_with_key(wrapped, KEY, model.cam.look_back)
    return patcher
