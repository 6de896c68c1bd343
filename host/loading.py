"""What every loader of a model of our own does: files, formats and devices, and networks of ours in the host's VAE."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor, nn

management = comfy.model_management


def read_file(path: str) -> dict[str, Tensor]:
    """The weights in a file, of which nothing is in memory before it is used, a training program's own state never.

    Raises ValueError for a file that holds more than tensors, numbers and texts.
    """
    if Path(path).suffix.lower() in (".safetensors", ".sft"):
        return comfy.utils.load_torch_file(path, safe_load=True)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{Path(path).name} holds a program's objects beside weights, which are never loaded here; a file of "
            f"weights alone, as safetensors, was expected ({str(error).splitlines()[0]})."
        ) from error
    return unwrap(saved)


def unwrap(weights: Mapping) -> dict[str, Tensor]:
    """The weights inside what training programs wrap around them."""
    for key in ("module", "state_dict"):
        if isinstance(weights.get(key), Mapping):
            weights = weights[key]
    return {key.removeprefix("_forward_module."): value for key, value in weights.items() if isinstance(value, Tensor)}


def take(weights: dict, prefix: str) -> dict:
    """The tensors under a prefix, without it, moved out of `weights`."""
    return comfy.utils.state_dict_prefix_replace(weights, {prefix: ""}, filter_keys=True)


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


def put_into(vae: comfy.sd.VAE, network: nn.Module, part: nn.Module, weights: dict[str, Tensor]) -> None:
    """Make `network` the network of a VAE. part: the module of it that is new and gets `weights`, maybe all of it."""
    management.archive_model_dtypes(part)
    vae.first_stage_model = network.eval()
    offload = management.vae_offload_device()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(network, load_device=vae.device, offload_device=offload)
    part.load_state_dict(weights, assign=vae.patcher.is_dynamic())
    vae.size = management.module_size(network)
