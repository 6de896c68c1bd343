"""Tiny DynamiCrafter checkpoints in the published key layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig, UNetConfig
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.dynamicrafter.unet import UNet

UNET, RESAMPLER = "model.diffusion_model.", "image_proj_model."
SIZES = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention=(True, False),
    head_channels=16,
    context_dim=64,
)


def random(network: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of about unit gain, no layer of which is idle."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in network.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1 and not name.endswith("latents"):
            drawn = drawn / tensor[0].numel() ** 0.5
        elif tensor.ndim == 1:
            drawn = 0.2 * drawn + (1.0 if name.endswith("weight") else 0.0)
        weights[name] = drawn
    return weights


def resampler(context_dim: int = 64, frames: int = 16, width: int = 96) -> dict[str, torch.Tensor]:
    sizes = ResamplerConfig(64, 1, 1, 64, 16 * frames, width, context_dim, 2)
    return random(Resampler(sizes), 1)


def write(path: Path, unet: dict | None = None, projection: dict | None = None, kind: dict | None = None) -> Path:
    """A checkpoint of UNet and image projection; `kind` as the loader reads it from the metadata."""
    unet = random(UNet(SIZES)) if unet is None else unet
    projection = resampler() if projection is None else projection
    weights = {UNET + name: t for name, t in unet.items()} | {RESAMPLER + name: t for name, t in projection.items()}
    metadata = {"storyreel_dynamicrafter": json.dumps(kind)} if kind else None
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata)
    return path
