"""Storyworld's models as the host's own objects: MODEL, CLIP, VAE and CLIP_VISION that every stock node works on.

The widths of the UNet and of both towers come from the files' metadata. The text tower's embedding holds the rows of
the world's words only; every other word of the tokenizer gets the row that was trained to mean nothing.
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

import comfy.clip_model
import comfy.clip_vision
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ..core.networks.storyworld import LATENT_CHANNELS, Autoencoder
from ..core.storyworld.captions import unknown_words, vocabulary
from ..core.text import short
from ..core.weights.refusal import Misfit, Unreadable, shape_shown, sides
from ..core.weights.stated import Each, Fields, One, Real, Whole, read_stated, switch
from . import storyworld_video
from .common import clip_vision, included, messages
from .common.latents import COLORS, latent_format
from .common.loading import (
    PRECISIONS,
    check_whole,
    judging,
    patcher_of,
    put_into,
    read_with_metadata,
    reject_incomplete,
    set_precision,
    shapes_of,
)
from .common.ops import host_ops
from .common.text_encoder import build_clip
from .storyworld_transformer import STATED, StoryworldFlux, StoryworldTransformer, split_config

FOLDER = "storyworld"
INCLUDED = Path(__file__).resolve().parents[1] / "models" / FOLDER
DOMAIN_ADAPTER = "storyworld_domain_adapter.safetensors"
CHECKPOINTS = {"dynamicrafter": "storyworld_video.safetensors", "streaming": "storyworld_streaming.safetensors"}
ROWS, END = 49408, 49407  # of the host's CLIP tokenizer: its tokens, and the last of them

DEPTHS = Each(Whole(0, 16), 1, 64, as_list=True)
TOWER = {
    "hidden_size": Whole(1, 4096),
    "num_hidden_layers": Whole(1, 64),
    "num_attention_heads": Whole(1, 256),
    "intermediate_size": Whole(1, 16384),
    "hidden_act": One(("quick_gelu", "gelu")),
}
TEXT = {**TOWER, "max_position_embeddings": Whole(1, 1024)}
VISION = {**TOWER, "model_type": One(("clip_vision_model",)), "projection_dim": Whole(1, 4096)}
VISION |= {"image_size": Whole(1, 1024), "patch_size": Whole(1, 1024), "num_channels": One((3,))}
UNET = {
    "image_size": Whole(1, 1024),
    **dict.fromkeys(("in_channels", "out_channels"), One((LATENT_CHANNELS,))),
    **dict.fromkeys(("model_channels", "context_dim"), Whole(1, 8192)),
    **dict.fromkeys(("num_res_blocks", "channel_mult"), Each(Whole(1, 16), 1, 8, as_list=True)),
    **dict.fromkeys(("transformer_depth", "transformer_depth_output"), DEPTHS),
    "transformer_depth_middle": Whole(-2, 16),
    **dict.fromkeys(("num_heads", "num_head_channels"), Whole(-1, 8192)),
    "use_spatial_transformer": One((True,)),
    **dict.fromkeys(("use_linear_in_transformer", "legacy"), switch),
}
LATENTS = {"spread": Real(0.001, 1000), "rgb": COLORS}
CONFIG = {  # what a part says of itself, by its kind
    "unet": Fields({"unet": Fields(UNET, tuple(UNET)), **LATENTS}, ("unet", *LATENTS)),
    "transformer": Fields({"transformer": STATED, **LATENTS}, ("transformer", *LATENTS)),
    "clip": Fields(
        {
            "text": Fields(TEXT, tuple(TEXT)),
            "vision": Fields(VISION, tuple(VISION)),
            "token_ids": Each(Whole(0, ROWS - 1), 1, ROWS, as_list=True),
        },
        ("text", "vision", "token_ids"),
    ),
    "autoencoder": Fields({}),
}


def register() -> None:
    """Make the included files and the video model's class known to the general code; a user's own `storyworld` folder
    comes first."""
    included.register(FOLDER, INCLUDED, CHECKPOINTS)
    storyworld_video.register()


def read_part(part: str) -> tuple[dict[str, Tensor], dict]:
    """Weights and configuration of a part. Raises FileNotFoundError, ValueError for a file that is something else."""
    path = folder_paths.get_full_path(FOLDER, f"{part}.safetensors")
    if path is None:
        raise FileNotFoundError(f"{part}.safetensors is not in {INCLUDED}, where the pack keeps Storyworld's weights.")
    weights, metadata = read_with_metadata(path)
    found = metadata.get("part", "a file of another kind")
    if found != f"storyworld {part}":
        raise ValueError(f"{path} is {short(found)}; Storyworld's {part} was expected.")
    with reject_incomplete(Path(path).name, f"Storyworld's {part}"):
        kind = CONFIG[part.partition("_")[0]]  # there are several UNets: unet_1, unet_no_twins
        return weights, read_stated("config", metadata.get("config", ""), kind)


UNBUILT: dict[str, Any] = dict(device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)


class StoryworldModel(comfy.supported_models_base.BASE):
    """A UNet like Stable Diffusion's, v-prediction under the same noise schedule. trained_size: sides in pixels."""

    unet_extra_config = {}
    trained_size = 128
    memory_usage_factor = 1.0


def load_model(precision: str = "auto", part: str = "unet") -> comfy.model_patcher.ModelPatcher:
    """The UNet, or the transformer. precision: a key of `PRECISIONS`. part: the file's name. Raises ValueError for a
    file that is not whole."""
    weights, config = read_part(part)
    kind = "transformer" if "transformer" in config else "UNet"
    with reject_incomplete(f"{part}.safetensors", f"Storyworld's {kind}"), judging(f"{kind} of Storyworld"):
        if kind == "UNet":
            described, network = StoryworldModel(config["unet"]), UNetModel(**config["unet"], **UNBUILT)
            build = partial(comfy.model_base.BaseModel, model_type=comfy.model_base.ModelType.V_PREDICTION)
        else:
            sizes, text_tokens = split_config(config["transformer"])
            described, network = StoryworldTransformer(sizes), Flux(**sizes, **UNBUILT)
            build = partial(StoryworldFlux, text_tokens=text_tokens)
        check_whole(network, weights)
        latents = latent_format({"spread": config["spread"], "rgb": config["rgb"]}, LATENT_CHANNELS)
    if latents is not None:
        described.latent_format = latents
    set_precision(described, comfy.utils.calculate_parameters(weights), PRECISIONS[precision])
    model = build(described)
    patcher = patcher_of(model)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher


def add_domain_adapter(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """The UNet with the LoRA that its motion modules were trained with: it knows frames of clips.

    Raises FileNotFoundError.
    """
    path = included.path_of("loras", DOMAIN_ADAPTER)
    if path is None:
        raise FileNotFoundError(f"loras/{DOMAIN_ADAPTER} is not in {INCLUDED}, where the pack keeps it.")
    adapted, _ = comfy.sd.load_lora_for_models(model, None, read_with_metadata(path)[0], 1.0, 0.0)
    return cast(comfy.model_patcher.ModelPatcher, adapted)


class StoryworldTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The host's CLIP tokenizer, which says what the world does not know: where it is asked if that is a node of ours,
    else on the node that loaded it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.node = messages.current_node()

    def tokenize_with_weights(self, text: str, *args, **kwargs):
        if unknown := unknown_words(text):
            messages.warn(
                f"Storyworld knows {len(vocabulary())} words, and these are not among them: {', '.join(unknown)}. "
                "They have no effect.",
                self.node,
            )
        return super().tokenize_with_weights(text, *args, **kwargs)


def load_clip() -> comfy.sd.CLIP:
    """The text tower."""
    weights, config = read_part("clip")

    text_model = partial(
        comfy.sd1_clip.SDClipModel,
        textmodel_json_config={**config["text"], "eos_token_id": END},
        return_projected_pooled=False,
    )

    class Target:
        tokenizer = StoryworldTokenizer
        params = {"clip_model": text_model}
        clip = comfy.sd1_clip.SD1ClipModel

    text = {name: tensor for name, tensor in weights.items() if name.startswith("text_")}
    rows = "text_model.embeddings.token_embedding.weight"
    with reject_incomplete("clip.safetensors", "Storyworld's text tower"), judging("text tower of Storyworld"):
        _check_heads(config["text"])
        words, (found, _) = config["token_ids"], sides(shapes_of(text), rows, 2)
        if len(set(words)) != len(words) or found != 1 + len(words):
            raise Misfit(
                rows, shape_shown(text[rows].shape), f"a row for each of its {len(set(words))} words and one more"
            )
        text[rows] = _every_row(text[rows], words)
        check_whole(comfy.clip_model.CLIPTextModel({**config["text"], "eos_token_id": END}, **UNBUILT), text)
    return build_clip(Target, {f"clip_l.transformer.{name}": tensor for name, tensor in text.items()})


def _every_row(rows: Tensor, token_ids: list[int]) -> Tensor:
    """[1 + words, width] -> [ROWS, width]; row 0 stands for every token that is not in `token_ids`."""
    everything = rows[:1].repeat(ROWS, 1)
    everything[token_ids] = rows[1:]
    return everything


def load_clip_vision() -> comfy.clip_vision.ClipVisionModel:
    """The image tower."""
    weights, config = read_part("clip")
    seen = {name: tensor for name, tensor in weights.items() if name.startswith("vis")}
    with reject_incomplete("clip.safetensors", "Storyworld's image tower"), judging("image tower of Storyworld"):
        _check_heads(config["vision"])
        check_whole(comfy.clip_model.CLIPVisionModelProjection(config["vision"], **UNBUILT), seen)
    vision = clip_vision.from_config(config["vision"])
    vision.load_sd(seen)
    return vision


def _check_heads(tower: dict) -> None:
    """Raise Unreadable for a tower whose width is not whole heads."""
    width, heads = tower["hidden_size"], tower["num_attention_heads"]
    if width % heads:
        raise Unreadable(f"states a tower {width} wide of {heads} heads; a width of whole heads was expected")


def load_vae() -> comfy.sd.VAE:
    """The autoencoder behind the host's VAE object.

    The host makes VAEs of the layouts that it knows only, so this one is made of the smallest of those, and then gets
    our network in its place.
    """
    weights, _ = read_part("autoencoder")
    smallest = dict(double_z=True, z_channels=4, resolution=8, in_channels=3, out_ch=3, ch=32, ch_mult=[1])
    params = {"embed_dim": 4, "ddconfig": {**smallest, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}}
    vae = comfy.sd.VAE(AutoencoderKL(**params).state_dict(), config={"params": params}, dtype=torch.float32)

    network = Autoencoder(host_ops()).to(vae.vae_dtype)
    with reject_incomplete("autoencoder.safetensors", "Storyworld's autoencoder"):
        put_into(vae, network, network, weights)
    vae.latent_channels = LATENT_CHANNELS
    # A dozen feature maps of up to 96 channels at a quarter of the resolution.
    vae.memory_used_encode = lambda shape, dtype: shape[2] * shape[3] * 80 * dtype.itemsize
    vae.memory_used_decode = lambda shape, dtype: shape[2] * shape[3] * 64 * 80 * dtype.itemsize
    return vae
