"""Checkpoints of StreamingT2V, StreamingSVD, ModelScope text-to-video and MS-Vid2Vid, as published."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...core.networks.modelscope import keys as modelscope_keys
from ...core.networks.modelscope.config import read_unet_config
from ...core.networks.modelscope.unet import UNet
from ...core.networks.ops import META
from ...core.networks.streaming import keys
from ...core.networks.streaming import model as networks
from ...core.networks.streaming.appearance import TokenExpander
from ...core.networks.streaming.config import read_config, read_token_expander
from ...core.weights.refusal import Misfit, Unreadable, shape_shown, sides
from ...core.weights.stated import Fields, Maybe, Text, Whole, read_stated, switch
from ..common import text_encoder
from ..common.folders import checkpoint_choices, checkpoint_path
from ..common.latents import LATENTS, latent_format
from ..common.loading import (
    build_clip_vision,
    check_whole,
    describe,
    describe_missing,
    fill,
    judging,
    read_with_metadata,
    reject_incomplete,
    set_precision,
    shapes_of,
    take,
)
from ..common.text_encoder import PROJECTION
from . import svd
from .modelscope import ModelScope, ModelScopeConfig, StreamingT2V

NODE = "Load StreamingT2V"
TEXT, VISION, VAE = "text_encoder.", "image_encoder.model.visual.", "vae."
SVD_VISION, SVD_VAE = "conditioner.embedders.0.open_clip.model.visual.", "first_stage_model."
MERGER = "cross_attention_merger_mid_block.temporal_transformer.norm.weight"  # a key of CAM's injectors
ENCODER = f"{keys.FRAME_ENCODER}conv_in.weight"  # a key of its feature extractor
TEXT_LAYER = re.compile(r"(text_model\.encoder\.layers\.)(\d+)(\..+)")
TEXT_LAYERS = 24  # of the host's text encoder
WIDEST_TEXT = 8192
REFINES = re.compile(r"vid(eo)?[-_ ]?(2|to)[-_ ]?vid(eo)?|non_ema_0035000", re.IGNORECASE)


@dataclass(frozen=True)
class StreamingType:
    """What a checkpoint is. frames: of a clip as trained. overlap: frames of a chunk that repeat those before it.

    What no shape tells and a file of StreamingT2V's may say of itself: head_channels: width of an attention head, where
    it is not that of the transformer behind the first convolution. latents: what `ScaledLatents` takes, None for
    Stable Diffusion's. v_prediction: whether it predicts velocity, and not noise.
    """

    name: str
    use: str
    licence: str
    frames: int
    overlap: int = 0
    head_channels: int | None = None
    latents: dict | None = None
    v_prediction: bool = False


METADATA = "storyreel_streaming"  # under which a file of ours says what it is
STATED = Fields(
    {
        **dict.fromkeys(("name", "use", "licence"), Text()),
        "frames": Whole(2, 4096),
        "memory": Whole(1, 4095),
        "head_channels": Maybe(Whole(1, 4096)),
        "latents": Maybe(LATENTS),
        "v_prediction": switch,
    }
)
TEXT_TO_VIDEO = StreamingType(
    "ModelScope text-to-video",
    "a clip of 16 frames from a prompt, 256 x 256, or the first chunk of a long one",
    "CC-BY-NC 4.0",
    16,
)
VID2VID = StreamingType(
    "MS-Vid2Vid",
    "refines a clip at 1280 x 720, with Randomized Blending in chunks of 24 frames that overlap by 8",
    "CC-BY-NC-ND 4.0",
    24,
)
STREAMING_T2V = StreamingType(
    "StreamingT2V",
    "extends a clip at 256 x 256 in chunks of 16 frames, which overlap by 8 (CAM), with one anchor frame (APM)",
    "its base is ModelScope's, CC-BY-NC 4.0",
    16,
    8,
)
STREAMING_SVD = StreamingType(
    "StreamingSVD",
    "extends a clip at 1024 x 576 in chunks of 25 frames, which overlap by 7 (CAM)",
    "Stable Video Diffusion's terms, non-commercial research",
    25,
    7,
)
CHOICES = {"text-to-video": TEXT_TO_VIDEO, "vid2vid": VID2VID}  # which no key tells apart


@dataclass(frozen=True)
class StreamingCheckpoint:
    """The models of a checkpoint; None for those that the file does not contain. why: by what it was detected."""

    kind: StreamingType
    why: str
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP | None
    vae: comfy.sd.VAE | None
    clip_vision: comfy.clip_vision.ClipVisionModel | None


def describe_checkpoint(loaded: StreamingCheckpoint) -> str:
    """The detected type of a file and its use, in a sentence or two."""
    kind = loaded.kind
    parts = {"CLIP": loaded.clip, "VAE": loaded.vae, "CLIP_VISION": loaded.clip_vision}
    if kind is STREAMING_SVD:
        parts.pop("CLIP")  # it reads no text
    elif kind.name != STREAMING_T2V.name:
        parts.pop("CLIP_VISION")  # these read no image
    return f"{kind.name}, by {loaded.why}: {kind.use}. License: {kind.licence}.{describe_missing(parts)}"


def checkpoint_names() -> list[str]:
    """Files of the folders where people keep these checkpoints, and the small one that ships with the pack."""
    return checkpoint_choices("streaming")


def load(name: str, model_type: str = "auto", precision: torch.dtype | None = None) -> StreamingCheckpoint:
    """Read a checkpoint of `checkpoint_names`.

    model_type: "auto", or a name of `CHOICES` for a file of ModelScope's network alone. precision: of the MODEL, None =
    auto.

    Raises ValueError for another file.
    """
    weights, metadata = read_with_metadata(checkpoint_path(name))
    found, why = detect(name, weights, model_type)
    if found is STREAMING_T2V and METADATA in metadata:
        with reject_incomplete(name, found.name):
            found = _as_stated(found, metadata[METADATA])
    logging.info("%s: %s is loaded as %s, by %s.", NODE, name, found.name, why)
    with reject_incomplete(name, found.name):
        return StreamingCheckpoint(found, why, *_build(found, weights, precision))


def _as_stated(kind: StreamingType, text: str) -> StreamingType:
    """The type that the metadata state. Raises Unreadable."""
    stated = read_stated(METADATA, text, STATED)
    if "memory" in stated:
        stated["overlap"] = stated.pop("memory")
    found = replace(kind, **stated)
    if found.overlap >= found.frames:
        raise Unreadable(
            f"states an overlap of {found.overlap} frames in chunks of {found.frames}; a smaller one was expected"
        )
    return found


def detect(name: str, weights: Mapping[str, Tensor], model_type: str = "auto") -> tuple[StreamingType, str]:
    """(what a checkpoint is, by what). Raises ValueError for another file, and for a choice that its keys rule out."""
    found = None
    if keys.UNET + MERGER in weights and keys.EXTRACTOR + ENCODER in weights:
        found = STREAMING_T2V
    elif svd.UNET + MERGER in weights and svd.CONTROL + ENCODER in weights:
        found = STREAMING_SVD
    if found is not None:
        if model_type != "auto":
            raise ValueError(f"{name} is {found.name}, but model_type is {model_type}. Set it to auto.")
        return found, "its keys"
    ours = modelscope_keys.our_names(weights).values()
    if not {"input_blocks.0.1.proj_in.weight", "input_blocks.1.0.temopral_conv.conv1.0.weight"} <= set(ours):
        raise ValueError(
            f"{name} is {describe(weights)}; a checkpoint of StreamingT2V, StreamingSVD, ModelScope "
            "text-to-video or MS-Vid2Vid was expected."
        )
    if model_type != "auto":
        return CHOICES[model_type], "model_type"
    return (VID2VID if REFINES.search(name) else TEXT_TO_VIDEO), "its keys and its file's name"


def _build(kind: StreamingType, weights: dict, precision) -> tuple:
    """(model, clip, vae, clip_vision)"""
    if kind is STREAMING_SVD:
        model = svd.build_model(weights, precision)
    elif kind.overlap:
        model = build_streaming(weights, precision, kind)
    else:
        model = build_modelscope(weights, kind is VID2VID, precision)
    model.model.kind = kind
    with judging("encoders and autoencoder of StreamingT2V and StreamingSVD"):
        if kind is STREAMING_SVD:
            return model, None, build_vae(weights, SVD_VAE), build_clip_vision(weights, SVD_VISION)
        if not kind.overlap:
            return model, None, None, None
        return model, build_clip(weights), build_vae(weights, VAE), build_clip_vision(weights, VISION)


def build_modelscope(weights: dict, refines: bool = False, precision=None) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of ModelScope's network alone, in either layout. refines: MS-Vid2Vid's.

    Raises KeyError, Misfit and Unreadable for weights of another network, before any memory is taken.
    """
    with judging("network of ModelScope"):
        unet = modelscope_keys.read_weights(weights)
        weights.clear()
        sizes = read_unet_config(shapes_of(unet), int(refines))
        check_whole(UNet(sizes, ops=META), unet)
    return _fill(ModelScope, ModelScopeConfig(sizes), unet, {}, precision)


def build_streaming(
    weights: dict, precision=None, kind: StreamingType = STREAMING_T2V
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of StreamingT2V. Its weights are moved out of `weights`. Raises as `build_modelscope`."""
    with judging("checkpoint of StreamingT2V"):
        unet = keys.read_unet(take(weights, keys.UNET))
        extractor = keys.read_extractor(take(weights, keys.EXTRACTOR))
        expander = take(weights, keys.EXPANDER)
        sizes = read_config(shapes_of(unet), shapes_of(extractor), kind.head_channels)
        unet |= {f"extractor.{key}": weight for key, weight in extractor.items()}
        expands = read_token_expander(shapes_of(expander))
        check_whole(networks.StreamingT2V(sizes, META), unet)
        check_whole(TokenExpander(**expands, ops=META), expander)
        if expands["count"] != sizes.image_tokens or expands["dim"] != sizes.unet.context_dim:
            raise Unreadable(
                f"makes {expands['count']} tokens of width {expands['dim']} of an anchor, and mixes "
                f"{sizes.image_tokens} of width {sizes.unet.context_dim} into the text; the same were expected"
            )
        latents = latent_format(kind.latents, sizes.unet.in_channels)
    return _fill(StreamingT2V, ModelScopeConfig(sizes, expands, latents, kind.v_prediction), unet, expander, precision)


def _fill(of: type[ModelScope], config: ModelScopeConfig, unet: dict, expander: dict, precision):
    count = comfy.utils.calculate_parameters(unet) + comfy.utils.calculate_parameters(expander)
    set_precision(config, count, precision, stored=comfy.utils.weight_dtype(unet))
    model = of(config, comfy.model_management.unet_inital_load_device(count, config.unet_config["dtype"]))
    patcher = fill(model, unet)
    if expander:
        model.get_submodule("expander").load_state_dict(expander, assign=patcher.is_dynamic())
    return patcher


def build_clip(weights: dict) -> comfy.sd.CLIP | None:
    """SD2's text encoder, if the file contains it.

    The published encoder ends with the layer that the host reads, the one before its own last. The missing layer is
    added as an identity, so that the host reads the right text at any clip skip.
    """
    text = take(weights, TEXT)
    if not text:
        return None
    layers = {key: TEXT_LAYER.fullmatch(key) for key in text}
    last = max(int(match[2]) for match in layers.values() if match)
    for match in filter(None, list(layers.values())):
        if int(match[2]) == last:
            for number in range(last + 1, TEXT_LAYERS):
                text[f"{match[1]}{number}{match[3]}"] = torch.zeros_like(text[match[0]])
    last_norm = "text_model.final_layer_norm.weight"
    (width,) = found = sides(shapes_of(text), last_norm, 1)
    if width > WIDEST_TEXT:
        raise Misfit(last_norm, shape_shown(found), f"at most {WIDEST_TEXT:,}")
    projection = {f"clip_h{PROJECTION}": torch.eye(width)}
    text = {f"clip_h.transformer.{key}": weight for key, weight in text.items()}
    return text_encoder.build_clip(comfy.supported_models.SD20({}).clip_target(text), text, projection)


def build_vae(weights: dict, prefix: str) -> comfy.sd.VAE | None:
    """The VAE, if the file contains it."""
    vae = take(weights, prefix)
    return comfy.sd.VAE(sd=vae) if vae else None
