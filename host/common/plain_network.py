"""Networks that are built of plain torch layers instead of the host's: they are on the device as a whole, or not."""

from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn


class _Wrapped(nn.Module):
    """The host sets attributes on a network, which TorchScript modules and transformers' classes refuse."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs, **options):
        return self.network(*inputs, **options)


def plain_patcher(network: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """A ModelPatcher of the network in eval mode, so that the host moves it to the device and away."""
    network = network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(
        _Wrapped(network),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def on_device(network: nn.Module) -> Callable:
    """The network as a function of a tensor on any device: see `run_on`."""
    return run_on(plain_patcher(network), network)


def run_on(patcher: comfy.model_patcher.ModelPatcher, function: Callable) -> Callable:
    """A function of a tensor on any device. It runs on the patcher's device, in float32; outputs stay there.

    patcher: of the network that `function` uses. Named arguments and integers are passed on as they are.
    """

    @torch.no_grad()
    def run(x: Tensor, **options):
        comfy.model_management.load_models_gpu([patcher])  # another model may have replaced it since the last call
        dtype = torch.float32 if x.is_floating_point() else x.dtype
        return function(x.to(patcher.load_device, dtype), **options)

    return run
