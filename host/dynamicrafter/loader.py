"""DynamiCrafter checkpoints as published: full, pruned, or UNet and image projection alone, in any wrapping."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
from torch import Tensor

from ...core.networks.dynamicrafter.config import read_decoder_sizes, read_resampler_config, read_unet_config
from ...core.networks.dynamicrafter.resampler import Resampler
from ...core.networks.dynamicrafter.tooncrafter import DualReferenceDecoder
from ...core.networks.dynamicrafter.unet import UNet
from ...core.networks.ops import META
from ...core.weights.refusal import Unreadable
from ...core.weights.stated import Each, Fields, Maybe, Real, Text, Whole, read_stated, switch
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
    put_into,
    read_with_metadata,
    reject_incomplete,
    set_precision,
    shapes_of,
    take,
)
from ..common.ops import host_ops
from .model import DynamiCrafterConfig, model_class_of

NODE = "Load DynamiCrafter"
METADATA = "storyreel_dynamicrafter"  # key of the metadata
UNET, RESAMPLER, VAE, TEXT, VISION = (
    "model.diffusion_model.",
    "image_proj_model.",
    "first_stage_model.",
    "cond_stage_model.model.",
    "embedder.model.visual.",
)


@dataclass(frozen=True)
class DynamiCrafterType:
    """What the weights of a checkpoint do not determine. fs_is_stride: fs counts frames to skip, else frames a second.
    image_tokens: of each frame. dim_head: of the image projection. latents: what `ScaledLatents` takes, None for
    Stable Diffusion's."""

    name: str
    v_prediction: bool = True
    zero_snr: bool = True
    base_scale: float = 0.7
    default_fs: int = 24
    fs_is_stride: bool = False
    interpolates: bool = False
    frames: int = 16
    size: tuple[int, int] = (512, 320)
    image_tokens: int = 16
    dim_head: int = 64
    head_channels: int | None = None
    latents: dict | None = None


STATED = Fields(  # in the metadata
    {
        "name": Text(100),
        **dict.fromkeys(("v_prediction", "zero_snr", "fs_is_stride", "interpolates"), switch),
        "base_scale": Real(0.01, 1),
        "default_fs": Whole(1, 1000),
        "frames": Whole(1, 4096),
        "size": Each(Whole(8, 16384), 2, 2),
        "image_tokens": Whole(1, 4096),
        "dim_head": Whole(1, 4096),
        "head_channels": Maybe(Whole(1, 4096)),
        "latents": Maybe(LATENTS),
    }
)
TYPES = {
    kind.name: kind
    for kind in (
        DynamiCrafterType("256", False, False, 1.0, default_fs=3, fs_is_stride=True, size=(256, 256)),
        DynamiCrafterType("512"),
        DynamiCrafterType("1024", base_scale=0.3, default_fs=10, size=(1024, 576)),
        DynamiCrafterType("512_interp", default_fs=10, interpolates=True),
        DynamiCrafterType("tooncrafter", default_fs=10, interpolates=True),
    )
}


@dataclass(frozen=True)
class DynamiCrafterCheckpoint:
    """The models of a checkpoint; None for those that the file does not contain."""

    kind: DynamiCrafterType
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP | None
    clip_vision: comfy.clip_vision.ClipVisionModel | None
    vae: comfy.sd.VAE | None


def describe_checkpoint(loaded: DynamiCrafterCheckpoint) -> str:
    """The detected type of a file and its use, in a sentence or two."""
    kind = loaded.kind
    fs = (
        "a frame stride; larger gives more motion"
        if kind.fs_is_stride
        else "frames per second; smaller gives more motion"
    )
    use = "interpolates from a start to an end image, and loops" if kind.interpolates else "animates an image"
    width, height = kind.size
    parts = {"CLIP": loaded.clip, "CLIP_VISION": loaded.clip_vision, "VAE": loaded.vae}
    return (
        f"DynamiCrafter {kind.name}: {use}; {width} x {height}, {kind.frames} frames; "
        f"fs (default {kind.default_fs}) is {fs}.{describe_missing(parts)}"
    )


def checkpoint_names() -> list[str]:
    """Files of the folders where people keep these checkpoints, and the small one that ships with the pack."""
    return checkpoint_choices("dynamicrafter")


def load(name: str, model_type: str = "auto", precision=None) -> DynamiCrafterCheckpoint:
    """Read a checkpoint of `checkpoint_names`. model_type: "auto" or a name of `TYPES`. precision: of the UNet, None =
    auto.

    Raises ValueError for a file that is no DynamiCrafter checkpoint, or not a whole one.
    """
    weights, metadata = read_with_metadata(checkpoint_path(name))
    if f"{UNET}init_attn.0.proj_in.weight" not in weights or f"{RESAMPLER}latents" not in weights:
        raise ValueError(f"{name} is {describe(weights)}; a DynamiCrafter checkpoint was expected.")
    if model_type != "auto" and METADATA in metadata:
        raise ValueError(f"{name} states its own type in its metadata; set model_type to auto.")
    with reject_incomplete(name, "a DynamiCrafter checkpoint"):
        found = detect(name, weights, metadata) if model_type == "auto" else TYPES[model_type]
    logging.info("%s: %s is loaded as DynamiCrafter %s.", NODE, name, found.name)
    stated = METADATA in metadata
    with reject_incomplete(name, f"DynamiCrafter {found.name}"):
        model = build_model(take_unet(weights), take(weights, RESAMPLER), found, precision, stated)
        with judging("encoders and autoencoder of DynamiCrafter"):
            others = build_clip(weights), build_clip_vision(weights, VISION), build_vae(weights)
    return DynamiCrafterCheckpoint(found, model, *others)


def take_unet(weights: dict) -> dict:
    """The UNet's, whose second embedding has another name in the oldest checkpoint."""
    return {key.replace("framestride_embed.", "fps_embedding."): t for key, t in take(weights, UNET).items()}


def detect(name: str, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> DynamiCrafterType:
    """What a checkpoint is, from its metadata, its keys, its rescale table, and last from its file's name. Raises
    Unreadable for metadata that make no sense."""
    if METADATA in metadata:
        return replace(TYPES["512"], **read_stated(METADATA, metadata[METADATA], STATED))
    if any(key.endswith("attn2.alpha") or ".framestride_embed." in key for key in weights):
        return TYPES["256"]
    if f"{VAE}decoder.conv_out.time_mix_conv.weight" in weights:
        return TYPES["tooncrafter"]
    stem = Path(name).stem.lower()
    if "toon" in stem:
        return TYPES["tooncrafter"]
    table = weights.get("scale_arr")
    if table is not None and table.ndim == 1 and len(table) and abs(float(table[-1]) - TYPES["1024"].base_scale) < 0.05:
        return TYPES["1024"]
    if "interp" in stem:
        return TYPES["512_interp"]
    return TYPES["1024" if table is None and "1024" in stem else "512"]


def judge(unet: dict, resampler: dict, kind: DynamiCrafterType, stated: bool) -> DynamiCrafterConfig:
    """The sizes of a checkpoint whose weights are those of its networks, to the last shape. Raises as `build_model`."""
    sizes = read_unet_config(shapes_of(unet), kind.default_fs, kind.image_tokens, kind.head_channels)
    projection = read_resampler_config(shapes_of(resampler), kind.dim_head)
    check_whole(UNet(sizes, META), unet)
    check_whole(Resampler(projection, META), resampler)
    if projection.output_dim != sizes.context_dim:
        raise Unreadable(
            f"projects images to width {projection.output_dim}, and its UNet reads width {sizes.context_dim}; one "
            "width was expected"
        )
    frames, odd = divmod(projection.queries, kind.image_tokens)
    if odd or stated and frames != kind.frames:
        raise Unreadable(
            f"makes {projection.queries} tokens of an image; {kind.image_tokens} for each of its {kind.frames} frames "
            "were expected"
        )
    return DynamiCrafterConfig(sizes, projection, latent_format(kind.latents, sizes.in_channels // 2))


def build_model(
    unet: dict, resampler: dict, kind: DynamiCrafterType, precision=None, stated: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL. The UNet's weights are moved out of their dictionary. stated: whether the file says itself how many
    frames it was trained on.

    Raises KeyError, Misfit and Unreadable for weights of another model, before any memory is taken.
    """
    with judging("DynamiCrafter checkpoint"):
        config = judge(unet, resampler, kind, stated)
    count = comfy.utils.calculate_parameters(unet) + comfy.utils.calculate_parameters(resampler)
    set_precision(config, count, precision, stored=comfy.utils.weight_dtype(unet))
    load_device = comfy.model_management.unet_inital_load_device(count, config.unet_config["dtype"])
    model_class = model_class_of(config.unet_config["sizes"])
    sampling = model_class.sampling_class(kind.v_prediction, kind.zero_snr, kind.base_scale)
    model = model_class(config, sampling, device=load_device)
    model.kind = kind
    patcher = fill(model, unet)
    model.image_proj_model.load_state_dict(resampler, strict=False, assign=patcher.is_dynamic())
    return patcher


def build_clip(weights: dict) -> comfy.sd.CLIP | None:
    """SD2's text encoder, if the file contains it."""
    if f"{TEXT}token_embedding.weight" not in weights:
        return None
    config = comfy.supported_models.SD20({})
    text = {key: tensor for key, tensor in weights.items() if key.startswith(TEXT)}
    text = config.process_clip_state_dict(text)
    return text_encoder.build_clip(config.clip_target(text), text)


def build_vae(weights: dict) -> comfy.sd.VAE | None:
    """The VAE, if the file contains it. Stock nodes decode with ToonCrafter's frame by frame."""
    vae = take(weights, VAE)
    if not vae:
        return None
    extra = ("time_stack.", "mix_factor", "attn_refinement.", "time_mix_conv.")
    plain = {key: tensor for key, tensor in vae.items() if not any(part in key for part in extra)}
    autoencoder = comfy.sd.VAE(sd=dict(plain))
    if len(plain) == len(vae):
        return autoencoder
    decoder = {key.removeprefix("decoder."): tensor for key, tensor in vae.items() if key.startswith("decoder.")}
    network = cast(Any, autoencoder.first_stage_model)  # Stable Diffusion's
    sizes = read_decoder_sizes(shapes_of(decoder))
    check_whole(DualReferenceDecoder(**sizes, ops=META), decoder)
    network.decoder = DualReferenceDecoder(**sizes, ops=host_ops(dtype=autoencoder.vae_dtype))
    put_into(autoencoder, network, network.decoder, decoder)
    return autoencoder
