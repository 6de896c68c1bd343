"""AnimateDiff's domain adapter (arXiv 2307.04725, section 4.1): a LoRA with which a picture model learns single frames
of clips before motion modules see any. Here it also learns to tell places, see `init`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANK = 16
PREFIX = "diffusion_model."  # under which a LoRA names the layers of a UNet
DOWN, UP = ".lora_down.weight", ".lora_up.weight"


class LowRank(nn.Module):
    """A change of a layer's weight, none at first."""

    def __init__(self, weight: Tensor, rank: int = RANK):
        super().__init__()
        fan_in = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, *weight.shape[1:], device=weight.device) / fan_in**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + product(self.up, self.down).view_as(weight)


def product(up: Tensor, down: Tensor) -> Tensor:
    """[outputs, inputs of each] of the two factors of a change."""
    return up.flatten(1) @ down.flatten(1)


class DomainAdapter(nn.Module):
    """Changes of a UNet's convolutions and attention layers, but not of how it reads a text."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.layers = nn.ModuleDict(
            {name.replace(".", "/"): LowRank(unet.get_submodule(name).weight) for name in layers_of(unet)}
        )

    def put_on(self, unet: nn.Module) -> None:
        for name, change in self.layers.items():
            parametrize.register_parametrization(unet.get_submodule(name.replace("/", ".")), "weight", change)

    def weights(self) -> dict[str, Tensor]:
        """As LoRA files name and shape them."""
        found = {}
        for name, change in self.layers.items():
            place = PREFIX + name.replace("/", ".")
            ones = [1] * (change.down.ndim - 2)  # the second of two convolutions sees one place
            found |= {place + DOWN: change.down, place + UP: change.up.view(*change.up.shape, *ones)}
        return found


def layers_of(unet: nn.Module) -> list[str]:
    """The names of those that a domain adapter changes."""
    names = []
    for name, layer in unet.named_modules():
        attends = isinstance(layer, nn.Linear) and (
            ".attn1." in name or ".attn2.to_q" in name or ".attn2.to_out" in name
        )
        if attends or isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and not name.startswith("out."):
            names.append(name)
    return names


def merge(unet: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Change a UNet for good, by the weights of a file."""
    with torch.no_grad():
        for key, down in weights.items():
            if key.endswith(DOWN):
                layer = unet.get_submodule(key.removeprefix(PREFIX).removesuffix(DOWN))
                change = product(weights[key.removesuffix(DOWN) + UP], down)
                layer.weight += change.view_as(layer.weight).to(layer.weight.device)
