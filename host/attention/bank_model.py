"""Which model a bank was recorded with: a bank's tokens mean something to the layers of that model only."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from comfy.model_patcher import ModelPatcher

from ...core.attention.bank import Bank
from .sampling_state import NODE
from .unet_blocks import Layer

SAMPLED = 64  # weights of a layer that count
LARGER = 4  # how many times as many pixels an image may have as another that reads it


def network_of(model: ModelPatcher) -> str:
    """The name of a MODEL's family, for people."""
    return type(model.model.model_config).__name__


def model_id(model: ModelPatcher, layers: Sequence[Layer]) -> str:
    """Identifies the weights of a MODEL's checkpoint, without LoRA: of some weights of each layer's key projection."""
    digest = hashlib.sha256()
    for layer in layers:
        weight = _weight(model, f"diffusion_model.{layer.path}.to_k.weight")
        digest.update(f"{layer.block} {layer.index} {layer.channels} {tuple(weight.shape)}".encode())
        values = weight.detach().flatten()
        values = values[:: max(1, len(values) // SAMPLED)][:SAMPLED]
        digest.update(values.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


def _weight(model: ModelPatcher, name: str) -> torch.Tensor:
    """A weight as in the checkpoint: the host keeps it where a LoRA stands in its place."""
    backup = model.backup.get(name)
    return cast(Any, model.get_model_object(name) if backup is None else backup.weight)


def check_model(bank: Bank, model: ModelPatcher, layers: Sequence[Layer]) -> None:
    """Raise ValueError for a bank of another model."""
    own = model_id(model, layers)
    for recording in bank.recordings:
        origin = recording.origin
        if origin.model == own:
            continue
        name, other = network_of(model), origin.network
        what = other if other != name else f"another {other}"
        raise ValueError(
            f"bank holds {_names(recording.characters)} of {what} (weights {origin.model}), and MODEL is {name} "
            f"(weights {own}); a bank of the same checkpoint in the same precision is expected."
        )


def check_size(bank: Bank, height: int, width: int) -> None:
    """Raise ValueError for images so much larger or smaller than these that their tokens differ in kind. height, width:
    in latent pixels."""
    for recording in bank.recordings:
        origin = recording.origin
        ratio = (height * width) / (origin.height * origin.width)
        if not 1 / LARGER <= ratio <= LARGER:
            raise ValueError(
                f"{NODE}: the bank was recorded at {8 * origin.width} x {8 * origin.height} pixels, and the LATENT is "
                f"{8 * width} x {8 * height}; at most {LARGER} times as many or as few pixels are expected."
            )


def _names(characters: frozenset[str]) -> str:
    return ", ".join(sorted(characters)).strip(", ") or "a character"
