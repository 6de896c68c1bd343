"""IP-Adapter's files for SD1.5: a projection from an image encoder to tokens, and layers that look at tokens."""

from dataclasses import dataclass

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
    refuse_parts,
    shapes_of,
    take,
)
from ..common.ops import host_ops
from ..common.video_model import Attention
from .animatediff import NODE, blocks_of

FOLDER = "ipadapter"
PROJECTION, LAYERS = "image_proj.", "ip_adapter."
ENCODERS = {  # which were trained with: by space, and width of what they see
    ("ip-plus", 1280): " (CLIP ViT-H/14)",
    ("ip", 1024): " (CLIP ViT-H/14)",
    ("ip", 1280): " (CLIP ViT-bigG/14)",
}
EXPECTED = "ip-adapter-plus_sd15 or ip-adapter_sd15 was expected"


@dataclass(frozen=True)
class AdapterTokens:
    """Makes IP-Adapter's tokens of pictures."""

    name: str
    projection: ModelPatcher
    slots: int = 1

    @property
    def config(self):
        return self.projection.model.config

    @property
    def space(self) -> str:
        return "ip" if isinstance(self.config, EmbeddingConfig) else "ip-plus"

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens of a frame, their width)"""
        return self.config.queries, self.config.output_dim

    def encode(self, clip_vision, pictures: Tensor, frames: int) -> Tensor:
        """[K, N, D] of pictures [K, H, W, 3], whose middle square is seen. Raises ValueError for another encoder."""
        output = "image_embeds" if self.space == "ip" else "penultimate_hidden_states"
        return self._project(clip_vision.encode_image(pictures)[output])

    def nothing(self, clip_vision) -> Tensor:
        """[N, D] of no picture, as in training: a zero embedding, or what the encoder makes of zeros."""
        if self.space == "ip":
            return self._project(torch.zeros(1, self.config.embedding_dim))[0]
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        side = clip_vision.image_size
        zeros = torch.zeros(1, 3, side, side, device=clip_vision.load_device)
        return self._project(clip_vision.model(pixel_values=zeros, intermediate_output=-2)[1])[0]

    def _project(self, seen: Tensor) -> Tensor:
        expected = self.config.embedding_dim
        if seen.shape[-1] != expected:
            raise ValueError(
                f"The CLIP_VISION gives tokens of width {seen.shape[-1]}, and {self.name} was trained on width "
                f"{expected}{ENCODERS.get((self.space, expected), '')}."
            )
        comfy.model_management.load_model_gpu(self.projection)
        tokens = self.projection.model(seen.to(self.projection.load_device, torch.float32))
        return tokens.to(comfy.model_management.intermediate_device())


def load_tokens(name: str) -> AdapterTokens:
    """The projection of a file in the folder. Raises ValueError for another file."""
    weights = take(_read(name), PROJECTION)
    with refuse_parts(name, "IP-Adapter's image projection", EXPECTED):
        with judging("image projection of IP-Adapter"):
            config = read_projection(shapes_of(weights))
            network = build_projection(config, host_ops(device="meta", dtype=comfy.utils.weight_dtype(weights)))
        put_weights(network, weights, own_formats=True)
    return AdapterTokens(name, patcher_of(network))


def load_layers(name: str) -> tuple[ModelPatcher, str]:
    """(the keys and values of a file in the folder, the space of the tokens that they were trained on)

    Raises ValueError for another file.
    """
    weights = _read(name)
    space = "ip-plus" if f"{PROJECTION}latents" in weights else "ip"
    weights = take(weights, LAYERS)
    with refuse_parts(f"{NODE}: {name}", "IP-Adapter's layers", EXPECTED):
        with judging("layers of IP-Adapter"):
            ops = host_ops(device="meta", dtype=comfy.utils.weight_dtype(weights), attention=Attention())
            network = ImageLayers(read_layers(shapes_of(weights)), ops)
        put_weights(network, weights, own_formats=True)
    return patcher_of(network), space


@dataclass(frozen=True)
class Look:
    """A cross-attention layer of a UNet: its block, its place in the block's transformer, itself."""

    block: tuple[str, int]
    index: int
    layer: CrossAttention


def looks_of(unet: UNetModel) -> dict[str, Look]:
    """{published number: layer} in the order of a forward pass"""
    found = [
        Look(place, index, block.attn2)
        for place, layers in blocks_of(unet).items()
        for layer in layers
        if isinstance(layer, SpatialTransformer)
        for index, block in enumerate(layer.transformer_blocks)
    ]
    sides = [sum(look.block[0] == side for look in found) for side in ("input", "middle", "output")]
    return dict(zip(numbers(*sides), found, strict=True))


def check_fit(name: str, unet: UNetModel, layers: ImageLayers, width: int) -> None:
    """Raise ValueError unless the layers are those of this UNet, for tokens of this width."""
    made = {number: layer.to_k_ip.weight.shape[0] for number, layer in layers.items()}
    found = {number: look.layer.to_q.weight.shape[0] for number, look in looks_of(unet).items()}
    if made != found:
        raise ValueError(
            f"{NODE}: {name} has {len(made)} layers that are not those of this MODEL, which has {len(found)}; an "
            "IP-Adapter for this very kind of model is expected."
        )
    reads = next(iter(layers.values())).to_k_ip.weight.shape[1]
    if reads != width:
        raise ValueError(f"{NODE}: {name} reads tokens of width {reads}, and the motion's have {width}.")


def _read(name: str) -> dict[str, Tensor]:
    """A file's two parts by their prefixes, as safetensors hold them; pickles hold one dictionary for each."""
    parts = PROJECTION.rstrip("."), LAYERS.rstrip(".")
    weights, _ = read_with_metadata(path_of(FOLDER, name), parts)
    if not all(any(key.startswith(prefix) for key in weights) for prefix in (PROJECTION, LAYERS)):
        raise ValueError(f"{name} is {describe(weights)}; {EXPECTED}.")
    return weights
