"""StreamingT2V's networks in the tests, from the published keys."""

import torch
from storyreel.core.networks.streaming import keys
from storyreel.core.networks.streaming.config import read_config
from storyreel.core.networks.streaming.model import StreamingT2V

from .golden import part, procedural


def shapes(weights: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def load(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network.load_state_dict(weights)
    return network.eval()


def streaming_model(listed: dict, seed: int) -> StreamingT2V:
    weights = procedural(listed, seed)
    unet = keys.read_unet(part(weights, keys.UNET))
    extractor = keys.read_extractor(part(weights, keys.EXTRACTOR))
    model = StreamingT2V(read_config(shapes(unet), shapes(extractor)))
    load(model.unet, unet)
    load(model.extractor, extractor)
    return model.eval()
