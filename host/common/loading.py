"""What all loaders share: reading files, checking weights, number formats and devices."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

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

from ...core.text import short
from ...core.weights import torch_file
from ...core.weights.refusal import MOST_TENSORS, Misfit, Unreadable, shape_shown
from ...core.weights.safetensors_header import read_header

management = comfy.model_management

FOLDERS = ("checkpoints", "diffusion_models")  # where users keep checkpoints of video models
PRECISIONS = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # auto: the host's
LARGE_PRECISIONS = PRECISIONS | {"fp8_e4m3fn": torch.float8_e4m3fn}  # for models large enough for 8 bits
SAFETENSORS = (".safetensors", ".sft")
NO_MEMORY = "allocate memory"  # in the errors of torch and of the system
MOST_WRAPPINGS = 8
SIZES_DIFFER = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) .*?"
    r"current model is torch\.Size\(\[(.*?)\]\)"
)  # torch's message


def checkpoint_names() -> list[str]:
    """The files in FOLDERS."""
    return sorted({name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)})


def path_of(name: str, *folders: str) -> str:
    """Where a file of FOLDERS, or else of those, lies. Raises FileNotFoundError."""
    for folder in (*FOLDERS, *folders):
        if path := folder_paths.get_full_path(folder, name):
            return path
    raise FileNotFoundError(f"{name} is not in models/{' or models/'.join(FOLDERS)} any more.")


def read_with_metadata(path: str | Path, parts: Sequence[str] = ()) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights in a file, of which nothing is in memory before it is used, a training program's own state never; and
    what a safetensors file says of itself. No loader of ours opens a file of weights in another way.

    parts: names of dictionaries inside a pickle whose weights get "part." before their names, as safetensors write it.

    Raises ValueError for a file that holds more than tensors, numbers and texts, for one that is damaged, and for one
    that claims more than it holds: a file is judged by its own table of contents before anything in it is read.
    """
    path = Path(path)
    with _refuse_file(path):
        if path.suffix.lower() in SAFETENSORS:
            metadata = read_header(path)
            saved = cast(Mapping, comfy.utils.load_torch_file(str(path), safe_load=True))
        else:
            torch_file.check(path, cast(int, management.get_free_memory(torch.device("cpu"))))
            saved, metadata = torch.load(path, "cpu", weights_only=True, mmap=torch_file.is_zip(path)), {}
        return unwrap(saved, parts), metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself. Raises ValueError as `read_with_metadata` does."""
    path = Path(path)
    with _refuse_file(path):
        return read_header(path)


@contextlib.contextmanager
def _refuse_file(path: Path):
    """Turns errors of reading a file into one sentence. Raises ValueError, and FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path.name} is not there any more.") from error
    except Unreadable as error:
        raise ValueError(error.of(path.name)) from error
    except Exception as error:
        if is_short_of_memory(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise ValueError(
                f"{path.name} cannot be read ({error.strerror}); a file that ComfyUI may read was expected."
            ) from error
        raise ValueError(torch_file.not_whole(path.stat().st_size).of(path.name)) from error


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or NO_MEMORY in str(error)


def unwrap(weights: Mapping, parts: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights inside what training programs wrap around them. parts: see `read_with_metadata`. Raises Unreadable
    for weights without names."""

    def inside() -> list[Mapping]:
        named = (value for key, value in weights.items() if key in ("module", "state_dict") or len(weights) == 1)
        return [value for value in named if isinstance(value, Mapping)]

    for _ in range(MOST_WRAPPINGS):  # a dictionary may hold itself
        if weights.keys() & set(parts) or not (wrapped := inside()):
            break
        weights = wrapped[0]
    for part in parts:
        if isinstance(held := weights.get(part), Mapping):
            weights = {**weights, **{f"{part}.{key}": value for key, value in held.items() if isinstance(key, str)}}
    found = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    if nameless := [key for key in found if not isinstance(key, str)]:
        raise Unreadable(f"holds weights under {short(nameless[0])}, which is no name; weights by names were expected")
    if len(found) > MOST_TENSORS:
        raise Unreadable(f"holds {len(found):,} weights; {MOST_TENSORS:,} at most were expected")
    return {key.removeprefix("_forward_module."): value for key, value in found.items()}


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
    return f"a file of {len(weights)} tensors, {short(next(iter(weights), 'none'))} among them"


def check_whole(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compare the weights of a file with those of a network. Raises KeyError for the first that the file lacks, which
    the host would leave uninitialized, and Misfit for the first of another shape or format."""
    needed = network.state_dict()
    if missing := sorted(needed.keys() - weights.keys()):
        raise KeyError(missing[0])
    for key, wanted in needed.items():
        found, alike = weights[key], weights[key].is_floating_point() == wanted.is_floating_point()
        single = wanted.ndim == 0 and found.shape == (1,)  # as torch itself takes it
        if not single and found.shape != wanted.shape:
            raise Misfit(key, shape_shown(found.shape), shape_shown(wanted.shape))
        if not alike:
            raise Misfit(key, str(found.dtype), str(wanted.dtype))


@contextlib.contextmanager
def reject_incomplete(name: str, model: str, expected: str = ""):
    """Turns errors in the weights of a file into a ValueError that names the file, the model and what was expected."""
    try:
        yield
    except Misfit as error:
        raise _refusal(name, f"{error} in {model}") from error
    except Unreadable as error:
        raise _refusal(name, str(error), expected) from error
    except KeyError as error:
        raise _refusal(name, f"is not whole: it lacks {short(error.args[0])} of {model}", expected) from error
    except RuntimeError as error:
        if (differ := SIZES_DIFFER.search(str(error))) is None:
            raise
        key, found, wanted = differ[1], *(shape_shown(sides.split(", ")) for sides in differ.groups()[1:])
        raise _refusal(name, f"{Misfit(key, found, wanted)} in {model}") from error


def _refusal(name: str, why: str, expected: str = "") -> ValueError:
    complete = "expected" in why or not expected
    return ValueError(Unreadable(why if complete else f"{why}; {expected}").of(name))


@contextlib.contextmanager
def judging(model: str):
    """For reading the sizes of a model from a file's shapes and building it without memory: whatever goes wrong in
    there, the file holds no such model. Raises KeyError, Misfit and Unreadable, of which `reject_incomplete` tells."""
    try:
        yield
    except (KeyError, Unreadable):
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_short_of_memory(error) or SIZES_DIFFER.search(str(error)):
            raise
        raise Unreadable(
            f"has weights of shapes that fit no {model}; a file as it was published was expected"
        ) from error


def describe_missing(parts: Mapping[str, object]) -> str:
    """A sentence on the parts that a file does not contain: those that are None."""
    absent = [name for name, part in parts.items() if part is None]
    if not absent:
        return ""
    return f" The file contains no {', '.join(absent)}: load {'them' if len(absent) > 1 else 'it'} separately."


def set_precision(
    config: comfy.supported_models_base.BASE, count: int, precision: torch.dtype | None, stored=None
) -> None:
    """Write into `config` the number format of a model of `count` parameters. precision: None = what the host would
    choose, for weights that are stored in the format `stored`."""
    supported = config.supported_inference_dtypes
    dtype = precision or management.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=stored)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, management.get_torch_device(), supported))


def patcher_of(model: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of a model."""
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device, offload_device)


def fill(model: comfy.model_base.BaseModel, unet: dict[str, Tensor]) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of a model, whose diffusion network gets these weights. Raises as `check_whole`.

    The weights are moved out of `unet`.
    """
    patcher = patcher_of(model)
    check_whole(model.diffusion_model, unet)
    model.load_model_weights(unet, "", assign=patcher.is_dynamic())
    return patcher


def build_clip_vision(weights: dict[str, Tensor], prefix: str) -> comfy.clip_vision.ClipVisionModel | None:
    """ViT-H/14, if the file contains it. Its weights are moved out of `weights`."""
    vision = {key: weights.pop(key) for key in list(weights) if key.startswith(prefix)}
    return comfy.clip_vision.load_clipvision_from_sd(vision, prefix, True) if vision else None


def check_nothing_else(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise Unreadable for the first weight of a file that a network has no place for."""
    if extra := sorted(weights.keys() - network.state_dict().keys()):
        raise Unreadable(f"also holds {short(extra[0])}, which none has")


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], own_formats: bool = False) -> None:
    """Make the weights of a file those of a network that has no memory yet, in their formats or in the network's.
    Raises as `check_whole`."""
    check_whole(network, weights)
    formats = {key: t.dtype if own_formats else weights[key].dtype for key, t in network.state_dict().items()}
    network.load_state_dict({key: weights[key].to(dtype) for key, dtype in formats.items()}, assign=True)
    network.requires_grad_(False).eval()
    management.archive_model_dtypes(network)


def put_into(vae: comfy.sd.VAE, network: nn.Module, part: nn.Module, weights: dict[str, Tensor]) -> None:
    """Make `network` the network of a VAE. part: the module of it that is new and gets `weights`, maybe all of it.
    Raises as `check_whole`."""
    check_whole(part, weights)
    check_nothing_else(part, weights)
    management.archive_model_dtypes(part)
    cast(Any, vae).first_stage_model = network.eval()  # any network, not of the host's classes alone
    offload = management.vae_offload_device()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(network, load_device=vae.device, offload_device=offload)
    part.load_state_dict(weights, assign=vae.patcher.is_dynamic())
    vae.size = management.module_size(network)
