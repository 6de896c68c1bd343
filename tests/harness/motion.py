"""AnimateDiff and IP-Adapter in the tests: the data's procedural weights, and tiny files of the published layout."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from storyreel.core.networks.animatediff.config import MotionConfig
from storyreel.core.networks.animatediff.module import MotionModules, sinusoids
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig
from storyreel.core.networks.ip_adapter.layers import ImageLayers
from storyreel.core.networks.ip_adapter.projection import EmbeddingConfig, build_projection
from storyreel.core.networks.semantic_motion.config import PredictorConfig, write_config
from storyreel.core.networks.semantic_motion.predictor import MotionPredictor

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


def sd15_sizes(channels: Sequence[int], depth: int, transformers: Sequence[int], context: int, heads: int = 8) -> dict:
    """The host's description of a UNet of SD1.5's kind. depth: residual blocks of a level; transformers: by level."""
    return dict(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=channels[0],
        channel_mult=[width // channels[0] for width in channels],
        num_res_blocks=[depth] * len(channels),
        transformer_depth=[count for count in transformers for _ in range(depth)],
        transformer_depth_output=[count for count in transformers for _ in range(depth + 1)],
        transformer_depth_middle=1,
        context_dim=context,
        num_heads=heads,
        num_head_channels=-1,
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        legacy=False,
    )


def sd15(sizes: dict, weights: dict[str, torch.Tensor] | None = None, family: str = "SD15", dtype=torch.float32):
    """The MODEL. weights: of its UNet, random ones if None. family: what the host takes it for."""
    import comfy.model_base
    import comfy.supported_models
    from storyreel.host.common.loading import patcher_of, set_precision

    config = getattr(comfy.supported_models, family)(dict(sizes))
    config.unet_config |= {name: sizes[name] for name in ("num_heads", "num_head_channels")}
    set_precision(config, 0, dtype)
    model = comfy.model_base.BaseModel(config)
    model.diffusion_model.load_state_dict(random(model.diffusion_model) if weights is None else weights)
    return patcher_of(model)


class GoldenUNet:
    """A UNet of the data in the host's words: its sizes, and the contents of its files.

    base: weights of the spatial UNet in the original layout. motion, adapter: as published.
    """

    def __init__(self, golden: Golden):
        import comfy.utils

        spec = golden.config
        transformers = [1] * (len(spec["channels"]) - 1) + [0]  # the last level has none
        sizes = spec["layers_per_block"], transformers, spec["context_dim"], spec["heads"]
        self.sizes = sd15_sizes(spec["channels"], *sizes)
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
        weights |= {key: sinusoids(spec["max_len"], width) for key, width in tables.items()}
        self.motion, self.adapter = part_named(weights, "motion_modules."), part(weights, "ip_adapter.")
        names = comfy.utils.unet_to_diffusers(dict(self.sizes))
        self.base = {names[key]: t for key, t in weights.items() if key in names}
        left = weights.keys() - names.keys() - self.motion.keys()
        assert all(key.startswith("ip_adapter.") for key in left), sorted(left)[:5]

    def model(self):
        return sd15(self.sizes, self.base)


def part_named(weights: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: t for key, t in weights.items() if name in key}


# Tiny files, for a tiny UNet of SD1.5's kind, and for Storyworld's image encoder

CONTEXT, TOKENS, VISION, EMBEDDING = 48, 3, 96, 96  # widths of text, of the encoder's tokens and embeddings
SIZES = sd15_sizes((32, 64), 1, (1, 1), CONTEXT)
LAYERS = (32, 64, 64, 64, 32, 32, 64)  # of IP-Adapter: down, up, middle


def motion_config(version: str = "v2") -> MotionConfig:
    """Of the modules for the tiny UNet."""
    return MotionConfig(
        down=((32,), (64,)),
        up=((64, 64), (32, 32)),
        middle=64 if version == "v2" else None,
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


def write_adapter(path: Path, plus: bool = True, width: int = CONTEXT, layers: Sequence[int] = LAYERS) -> Path:
    """An IP-Adapter: safetensors, or a pickle by its name."""
    resampler = ResamplerConfig(64, 1, 1, 64, TOKENS, VISION, width, 2)
    config = resampler if plus else EmbeddingConfig(EMBEDDING, TOKENS, width)
    numbered = {str(2 * number + 1): (width, size) for number, size in enumerate(layers)}
    parts = {"image_proj": random(build_projection(config), 1), "ip_adapter": random(ImageLayers(numbered), 2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({f"{name}.{key}": t for name, inner in parts.items() for key, t in inner.items()}, path)
    else:
        torch.save(parts, path)
    return path


def write_predictor(path: Path, config: PredictorConfig) -> Path:
    """A motion predictor without idle layers, as if trained."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(random(MotionPredictor(config), 3), path, write_config(config))
    return path


def write_lora(path: Path, layer: str, width: int) -> Path:
    """A LoRA of one linear layer of this width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"lora_down": torch.randn(2, width), "lora_up": torch.randn(width, 2)}
    save_file({f"{layer}.{name}.weight": weight * 0.1 for name, weight in weights.items()}, path)
    return path


# Clips


def write_video(path: Path, places: Sequence[tuple[float, float]]) -> None:
    """A disc on gray at places from 0 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for x, y in places:
        frame = Image.new("RGB", (96, 96), (90, 110, 120))
        box = [64 * x, 64 * y, 64 * x + 32, 64 * y + 32]
        ImageDraw.Draw(frame).ellipse(box, fill=(240, 180, 40))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def swing(number: int, frames: int) -> list[tuple[float, float]]:
    """Half a turn around each clip's own center."""
    center, radius = 0.5 + 0.02 * (number % 5 - 2), 0.3 + 0.01 * (number % 3)
    angles = [math.pi * i / (frames - 1) for i in range(frames)]
    return [(center + radius * math.cos(a), center + radius * math.sin(a)) for a in angles]
