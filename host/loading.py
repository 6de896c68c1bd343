"""What every loader of a model of our own does: number formats and devices, and networks of ours in the host's VAE."""

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from torch import Tensor, nn

management = comfy.model_management


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
