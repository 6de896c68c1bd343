"""IP-Adapter's files for SD1.5: a projection from an image encoder to tokens, and cross-attention layers for them."""

from dataclasses import dataclass
from typing import cast

import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.modules.attention import CrossAttention, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.networks.ip_adapter.layers import ImageLayers, numbers, read_layers
from ...core.networks.ip_adapter.projection import EmbeddingConfig, build_projection, read_projection
from ..common.folders import path_of
from ..common.loading import (
    describe,
    judging,
    patcher_of,
    put_weights,
    read_with_metadata,
    reject_incomplete,
    shapes_of,
    take,
)
from ..common.ops import host_ops
from ..common.video_model import HostAttention
from .animatediff import blocks_of

FOLDER = "ipadapter"
PROJECTION, LAYERS = "image_proj.", "ip_adapter."
ENCODERS = {  # of the published files, by token_space and embedding width
    ("ip-plus", 1280): " (CLIP ViT-H/14)",
    ("ip", 1024): " (CLIP ViT-H/14)",
    ("ip", 1280): " (CLIP ViT-bigG/14)",
}
EXPECTED = "ip-adapter-plus_sd15 or ip-adapter_sd15 was expected"


@dataclass(frozen=True)
class IPAdapterTokenEncoder:
    """Encodes images as IP-Adapter's tokens."""

    name: str
    projection: ModelPatcher
    frames_per_image: int = 1
    reads_clip_vision: bool = True

    @property
    def config(self):
        return self.projection.model.config

    @property
    def token_space(self) -> str:
        return "ip" if isinstance(self.config, EmbeddingConfig) else "ip-plus"

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens of a frame, their width)"""
        return self.config.queries, self.config.output_dim

    def encode(self, clip_vision, images: Tensor, frames: int) -> Tensor:
        """[K, N, D] of the center crops of images [K, H, W, 3]. Raises ValueError for another CLIP_VISION."""
        output = "image_embeds" if self.token_space == "ip" else "penultimate_hidden_states"
        return self._project(clip_vision.encode_image(images)[output])

    def uncond(self, clip_vision) -> Tensor:
        """[N, D] of no image, as in training: from a zero embedding, or from the encoder's features of zeros."""
        if self.token_space == "ip":
            return self._project(torch.zeros(1, self.config.embedding_dim))[0]
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        side = clip_vision.image_size
        zeros = torch.zeros(1, 3, side, side, device=clip_vision.load_device)
        return self._project(clip_vision.model(pixel_values=zeros, intermediate_output=-2)[1])[0]

    def _project(self, features: Tensor) -> Tensor:
        expected = self.config.embedding_dim
        if features.shape[-1] != expected:
            raise ValueError(
                f"The CLIP_VISION gives features of width {features.shape[-1]}, and {self.name} expects width "
                f"{expected}{ENCODERS.get((self.token_space, expected), '')}."
            )
        comfy.model_management.load_model_gpu(self.projection)
        tokens = self.projection.model(features.to(self.projection.load_device, torch.float32))
        return tokens.to(comfy.model_management.intermediate_device())


def load_token_encoder(name: str) -> IPAdapterTokenEncoder:
    """The projection of a file in the folder, as a token encoder. Raises ValueError for another file."""
    weights = take(_read(name), PROJECTION)
    with reject_incomplete(name, "IP-Adapter's image projection", EXPECTED):
        with judging("image projection of IP-Adapter"):
            config = read_projection(shapes_of(weights))
            network = build_projection(config, host_ops(device="meta", dtype=comfy.utils.weight_dtype(weights)))
        put_weights(network, weights, own_formats=True)
    return IPAdapterTokenEncoder(name, patcher_of(network))


def load_layers(name: str) -> tuple[ModelPatcher, str]:
    """(the cross-attention layers of a file in the folder, the token_space that they were trained on)

    Raises ValueError for another file.
    """
    weights = _read(name)
    token_space = "ip-plus" if f"{PROJECTION}latents" in weights else "ip"
    weights = take(weights, LAYERS)
    with reject_incomplete(name, "IP-Adapter's layers", EXPECTED):
        with judging("layers of IP-Adapter"):
            ops = host_ops(device="meta", dtype=comfy.utils.weight_dtype(weights), attention=HostAttention())
            network = ImageLayers(read_layers(shapes_of(weights)), ops)
        put_weights(network, weights, own_formats=True)
    return patcher_of(network), token_space


@dataclass(frozen=True)
class CrossAttentionLayer:
    """A cross-attention layer of a UNet: its block, its index in the block's transformer, and the layer."""

    block: tuple[str, int]
    index: int
    layer: CrossAttention


def cross_attention_layers(unet: UNetModel) -> dict[str, CrossAttentionLayer]:
    """{published number: layer} in the order of a forward pass"""
    found = [
        CrossAttentionLayer(place, index, cast(CrossAttention, block.attn2))
        for place, layers in blocks_of(unet).items()
        for layer in layers
        if isinstance(layer, SpatialTransformer)
        for index, block in enumerate(layer.transformer_blocks)
    ]
    counts = [sum(item.block[0] == part for item in found) for part in ("input", "middle", "output")]
    return dict(zip(numbers(*counts), found, strict=True))


def check_fit(name: str, unet: UNetModel, layers: ImageLayers, width: int) -> None:
    """Raise ValueError unless the layers are those of this UNet, for tokens of this width."""
    expected = {number: layer_width for number, (_, layer_width) in layers.widths.items()}
    found = {number: item.layer.to_q.weight.shape[0] for number, item in cross_attention_layers(unet).items()}
    if expected != found:
        raise ValueError(
            f"{name} has {len(expected)} layers that do not match the {len(found)} layers of this MODEL; use "
            "an IP-Adapter for this kind of model."
        )
    reads, _ = next(iter(layers.widths.values()))
    if reads != width:
        raise ValueError(f"{name} expects tokens of width {reads}, and the motion's have {width}.")


def _read(name: str) -> dict[str, Tensor]:
    """All weights with their prefixes, as safetensors hold them; a pickle holds a dictionary for each of the two."""
    parts = PROJECTION.rstrip("."), LAYERS.rstrip(".")
    weights, _ = read_with_metadata(path_of(FOLDER, name), parts)
    if not all(any(key.startswith(prefix) for key in weights) for prefix in (PROJECTION, LAYERS)):
        raise ValueError(f"{name} is {describe(weights)}; {EXPECTED}.")
    return weights
