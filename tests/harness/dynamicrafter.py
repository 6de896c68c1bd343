"""Tiny DynamiCrafter checkpoints in the published key layout."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig, UNetConfig
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.dynamicrafter.tooncrafter import DualReferenceDecoder
from storyreel.core.networks.dynamicrafter.unet import UNet

from . import tiny

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
    """Weights of about unit gain, without idle layers."""
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


def write_for_workflows(name: str, folder: Path) -> Path:
    """The stand-in of a published checkpoint, unless it is there: a tiny UNet and image projection for the widths of
    SD1.5's text encoder and of ViT-L, and the autoencoder that files of this `name` carry, if any."""
    path = folder / f"{name}.ckpt"
    if not path.exists():
        weights = {UNET + key: t for key, t in random(UNet(replace(SIZES, context_dim=768))).items()}
        weights |= {RESAMPLER + key: t for key, t in resampler(768, width=1024).items()}
        if "toon" in name:
            weights |= tiny.random_weights(toon_vae())
        elif "1024" in name:
            weights |= tiny.random_weights(tiny.vae())
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": weights}, path)
    return path


def write_storyworld(path: Path, frames: int, **metadata) -> Path:
    """A tiny DynamiCrafter between Storyworld's encoders and its autoencoder. metadata: more for the file's metadata,
    head_channels, image_tokens and dim_head among it."""
    width, channels = 96, 12
    sizes = replace(SIZES, in_channels=2 * channels, out_channels=channels, context_dim=width)
    sizes = replace(sizes, head_channels=metadata["head_channels"], init_head_channels=8)
    projection = ResamplerConfig(64, 2, 3, metadata["dim_head"], metadata["image_tokens"] * frames, width, width, 2)
    latents = {"spread": 0.8, "rgb": [[0.1, 0.2, 0.3]] * (channels + 1)}
    kind = {"name": "storyworld", "interpolates": True, "frames": frames, "size": [128, 128], "latents": latents}
    return write(path, random(UNet(sizes)), random(Resampler(projection), 1), kind | metadata)


def toon_vae() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys and shapes of ToonCrafter's autoencoder."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, num_res_blocks=2)
    sizes |= dict(ch_mult=[1, 2, 4, 4], attn_resolutions=[], dropout=0.0)
    with torch.device("meta"):
        network = AutoencoderKL(embed_dim=4, ddconfig=sizes)
        network.decoder = DualReferenceDecoder()
    for name, tensor in network.state_dict().items():
        yield f"first_stage_model.{name}", tuple(tensor.shape)
