"""What every loader of a model of our own does: files, formats and devices, and networks of ours in the host's VAE."""

import contextlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import comfy.clip_vision
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

management = comfy.model_management

FOLDERS = ("checkpoints", "diffusion_models")  # where people keep checkpoints of video models
PRECISIONS = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # auto: the host's
LARGE_PRECISIONS = PRECISIONS | {"fp8_e4m3fn": torch.float8_e4m3fn}  # of models that are large enough for 8 bit
FORBIDDEN = re.compile(r"GLOBAL (\S+)")  # how torch names what it does not unpickle
NO_MEMORY = "allocate memory"  # how torch and the system say that there is none: that is not the file's fault


def checkpoint_names() -> list[str]:
    """The files in FOLDERS."""
    return sorted({name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)})


def path_of(name: str, *folders: str) -> str:
    """Where a file of FOLDERS, or else of those, lies. Raises FileNotFoundError."""
    for folder in (*FOLDERS, *folders):
        if path := folder_paths.get_full_path(folder, name):
            return path
    raise FileNotFoundError(f"{name} is not in models/{' or models/'.join(FOLDERS)} any more.")


def read_with_metadata(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights in a file, of which nothing is in memory before it is used, a training program's own state never; and
    what a safetensors file says of itself.

    Raises ValueError for a file that holds more than tensors, numbers and texts, and for one that is damaged.
    """
    if Path(path).suffix.lower() in (".safetensors", ".sft"):
        weights, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
        return unwrap(weights), metadata or {}
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
        if NO_MEMORY in str(error):
            raise
        name, size = Path(path).name, Path(path).stat().st_size
        if objects := FORBIDDEN.search(str(error)):
            raise ValueError(
                f"{name} holds a program's objects beside weights, {objects[1]} among them, which are never loaded "
                "here; a file of weights alone, as safetensors, was expected."
            ) from error
        raise ValueError(
            f"{name}, of {size:,} bytes, is no checkpoint, or not a whole one: compare its size with the published "
            "one and download it again."
        ) from error
    if not isinstance(saved, Mapping):
        raise ValueError(f"{Path(path).name} holds a {type(saved).__name__}; a checkpoint's weights were expected.")
    return unwrap(saved), {}


def unwrap(weights: Mapping) -> dict[str, Tensor]:
    """The weights inside what training programs wrap around them."""

    def inside() -> list[Mapping]:
        named = (value for key, value in weights.items() if key in ("module", "state_dict") or len(weights) == 1)
        return [value for value in named if isinstance(value, Mapping)]

    while wrapped := inside():
        weights = wrapped[0]
    return {key.removeprefix("_forward_module."): value for key, value in weights.items() if isinstance(value, Tensor)}


def take(weights: dict, prefix: str) -> dict:
    """The tensors under a prefix, without it, moved out of `weights`."""
    return comfy.utils.state_dict_prefix_replace(weights, {prefix: ""}, filter_keys=True)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(weight.shape) for key, weight in weights.items()}


def describe(weights: Mapping[str, Tensor]) -> str:
    """A guess at what else a file is, in a few words."""
    if "image_proj_model.latents" in weights:
        return "a DynamiCrafter checkpoint"
    if any(".transformer_blocks.0.attn2.to_k_ip." in key for key in weights):
        return "a DynamiCrafter UNet without its image projection"
    if any(key.startswith("model.diffusion_model.") for key in weights):
        return "a checkpoint of another model"
    if any(".lora_" in key or ".lora." in key for key in weights):
        return "a LoRA"
    return f"a file of {len(weights)} tensors, {next(iter(weights), 'none')} among them"


def check_whole(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise KeyError for the first weight of a network that a file lacks: the host would sample with whatever is in
    memory there."""
    if missing := sorted(network.state_dict().keys() - weights.keys()):
        raise KeyError(missing[0])


@contextlib.contextmanager
def refuse_parts(name: str, model: str):
    """Says of the KeyError for a weight which file lacks it, and of which model. Raises ValueError."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{name} is not whole: it lacks {error.args[0]} of {model}.") from error


def tell_absent(parts: Mapping[str, object]) -> str:
    """What there is to say, behind a sentence, of the parts that a file does not carry: those that are None."""
    absent = [name for name, part in parts.items() if part is None]
    if not absent:
        return ""
    return f" The file carries no {', '.join(absent)}: load {'them' if len(absent) > 1 else 'it'} apart."


def set_precision(
    config: comfy.supported_models_base.BASE, count: int, precision: torch.dtype | None, stored=None
) -> None:
    """Write into `config` the number format of a model of `count` parameters. precision: None = what the host would
    choose, for weights that are stored in the format `stored`."""
    supported = config.supported_inference_dtypes
    dtype = precision or management.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=stored)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, management.get_torch_device(), supported))


def patcher_of(model: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """The MODEL around a model of ours."""
    devices = dict(load_device=management.get_torch_device(), offload_device=management.unet_offload_device())
    return comfy.model_patcher.CoreModelPatcher(model, **devices)


def fill(model: comfy.model_base.BaseModel, unet: dict[str, Tensor]) -> comfy.model_patcher.ModelPatcher:
    """The MODEL around a model of ours, whose diffusion network gets these weights. Raises KeyError for one that lacks.

    The weights are moved out of `unet`.
    """
    patcher = patcher_of(model)
    check_whole(model.diffusion_model, unet)
    model.load_model_weights(unet, "", assign=patcher.is_dynamic())
    return patcher


def build_clip(target, text: dict[str, Tensor]) -> comfy.sd.CLIP:
    """The CLIP of a text encoder's weights. target: its classes, as the host's `clip_target` gives them."""
    return comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(text),
        state_dict=text,
    )


def build_clip_vision(weights: dict[str, Tensor], prefix: str) -> comfy.clip_vision.ClipVisionModel | None:
    """ViT-H/14, if the file carries it. Its weights are moved out of `weights`."""
    vision = {key: weights.pop(key) for key in list(weights) if key.startswith(prefix)}
    return comfy.clip_vision.load_clipvision_from_sd(vision, prefix, True) if vision else None


def put_into(vae: comfy.sd.VAE, network: nn.Module, part: nn.Module, weights: dict[str, Tensor]) -> None:
    """Make `network` the network of a VAE. part: the module of it that is new and gets `weights`, maybe all of it."""
    management.archive_model_dtypes(part)
    vae.first_stage_model = network.eval()
    offload = management.vae_offload_device()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(network, load_device=vae.device, offload_device=offload)
    part.load_state_dict(weights, assign=vae.patcher.is_dynamic())
    vae.size = management.module_size(network)
