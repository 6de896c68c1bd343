"""AnimateDiff and IP-Adapter in the tests: the data's procedural weights, and tiny files of the published layout."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from storyreel.core.networks.animatediff.config import MotionConfig
from storyreel.core.networks.animatediff.module import MotionModules, sinusoids
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig
from storyreel.core.networks.ip_adapter.layers import ImageLayers
from storyreel.core.networks.ip_adapter.projection import EmbeddingConfig, build_projection

from .dynamicrafter import random
from .golden import Golden, part

POSITIONS = ".pos_encoder.pe"


def uniform(key: str, count: int) -> np.ndarray:
    """float64 in [0, 1): SplitMix64 of (crc32(key) << 32) + i."""
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint64) + (np.uint64(zlib.crc32(key.encode())) << np.uint64(32))
        x += np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


def noise(key: str, shape: Sequence[int], std: float = 1.0) -> torch.Tensor:
    """Uniform around zero."""
    drawn = (2 * uniform(key, int(np.prod(shape))) - 1) * 3**0.5 * std
    return torch.from_numpy(drawn.astype(np.float32).reshape(tuple(shape)))


def procedural(shapes: Mapping[str, Sequence[int]], tag: str) -> dict[str, torch.Tensor]:
    """Weights that the data do not hold, from their published rule."""
    return {key: _drawn(key, shape, tag) for key, shape in shapes.items()}


def _drawn(key: str, shape: Sequence[int], tag: str) -> torch.Tensor:
    if key.endswith("latents"):
        return noise(f"{tag}:{key}", shape)
    if len(shape) > 1:
        return noise(f"{tag}:{key}", shape, float(np.prod(shape[1:])) ** -0.5)
    return noise(f"{tag}:{key}", shape, 0.2) + (1.0 if key.endswith(".weight") else 0.0)


class GoldenUNet:
    """A UNet of the data in the host's words: its configuration, and its three files as published.

    base: weights of the spatial UNet in the original layout. motion, adapter: contents of the files.
    """

    def __init__(self, golden: Golden):
        import comfy.utils

        said = golden.config
        channels = said["channels"]
        levels, depth = len(channels), said["layers_per_block"]
        transformers = [1] * (levels - 1) + [0]  # the last level has none
        self.config = dict(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=channels[0],
            channel_mult=[width // channels[0] for width in channels],
            num_res_blocks=[depth] * levels,
            transformer_depth=[count for count in transformers for _ in range(depth)],
            transformer_depth_output=[count for count in transformers for _ in range(depth + 1)],
            transformer_depth_middle=1,
            context_dim=said["context_dim"],
            num_heads=said["heads"],
            num_head_channels=-1,
            use_spatial_transformer=True,
            use_linear_in_transformer=False,
            legacy=False,
        )
        stem = golden.path.name.removesuffix(".io.safetensors")
        stored = {path: load_file(path) for path in sorted(golden.path.parent.glob(f"{stem}.*.safetensors"))}
        stored = {key: t for path, weights in stored.items() if path != golden.path for key, t in weights.items()}
        if stored:
            self.motion, self.adapter = part_named(stored, "motion_modules."), part(stored, "ip_adapter.")
            self.base = {key: t for key, t in stored.items() if "motion_modules." not in key and key[:3] != "ip_"}
            return
        shapes = json.loads(golden.path.with_name(f"{stem}.keys.json").read_text())
        weights = procedural(shapes, golden.metadata["tag"])
        attentions = {key: t for key, t in weights.items() if ".attention_blocks." in key and "to_q" in key}
        tables = {key.replace(".to_q.weight", POSITIONS): len(t) for key, t in attentions.items()}
        weights |= {key: sinusoids(said["max_len"], width) for key, width in tables.items()}
        self.motion, self.adapter = part_named(weights, "motion_modules."), part(weights, "ip_adapter.")
        names = comfy.utils.unet_to_diffusers(dict(self.config))
        self.base = {names[key]: t for key, t in weights.items() if key in names}
        left = weights.keys() - names.keys() - self.motion.keys()
        assert all(key.startswith("ip_adapter.") for key in left), sorted(left)[:5]

    def model(self):
        """The MODEL, in float32."""
        import comfy.model_base
        import comfy.supported_models
        from storyreel.host.loading import patcher_of, set_precision

        config = comfy.supported_models.SD15(dict(self.config))
        config.unet_config["num_heads"] = self.config["num_heads"]
        set_precision(config, 0, torch.float32)
        model = comfy.model_base.BaseModel(config)
        model.diffusion_model.load_state_dict(self.base)
        return patcher_of(model)


def part_named(weights: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: t for key, t in weights.items() if name in key}


# Tiny files

WIDTH, TOKENS, VISION = 768, 16, 1280  # of SD1.5's text, of IP-Adapter-Plus, of CLIP ViT-H/14


def motion_config(levels: int = 1, version: str = "v2", width: int = 320, modules: int = 1) -> MotionConfig:
    """Of the tiny checkpoints of `harness.tiny`, all of whose levels are of one width."""
    return MotionConfig(
        down=((width,) * modules,) * levels,
        up=((width,) * (modules + 1),) * levels,
        middle=width if version == "v2" else None,
        frames=24 if version == "v1" else 32,
        whole_clip=version == "v1",
    )


def write_module(path: Path, config: MotionConfig | None = None, seed: int = 0) -> Path:
    """A file of motion modules: a pickle, or safetensors by its name."""
    network = MotionModules(config or motion_config())
    weights = random(network, seed)
    weights |= {key: t for key, t in network.state_dict().items() if key.endswith(POSITIONS)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    return path


def write_adapter(path: Path, plus: bool = True, width: int = WIDTH, layers: Sequence[int] = (320,) * 4) -> Path:
    """An IP-Adapter. layers: widths, in the published order."""
    config = ResamplerConfig(64, 1, 1, 64, TOKENS, VISION, width, 2) if plus else EmbeddingConfig(1024, 4, width)
    numbered = {str(2 * number + 1): (width, size) for number, size in enumerate(layers)}
    parts = {"image_proj": random(build_projection(config), 1), "ip_adapter": random(ImageLayers(numbered), 2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({f"{name}.{key}": t for name, inner in parts.items() for key, t in inner.items()}, path)
    else:
        torch.save(parts, path)
    return path
