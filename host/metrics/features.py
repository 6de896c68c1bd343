"""Embeddings of images and prompts by the host's own encoders, for scores that say who gave them."""

from collections.abc import Iterator

import comfy.model_management
import torch
from comfy.sd1_clip import SDClipModel
from torch import Tensor

from ..common.text_encoder import has_projection

AT_ONCE = 8  # images or prompts that a network of a folder gets
ARCHITECTURES = {  # (width, layers, pixels of a patch, of an image): what people call it
    (768, 12, 32, 224): "CLIP ViT-B/32",
    (768, 12, 16, 224): "CLIP ViT-B/16",
    (1024, 24, 14, 224): "CLIP ViT-L/14",
    (1024, 24, 14, 336): "CLIP ViT-L/14@336px",
    (1280, 32, 14, 224): "CLIP ViT-H/14",
    (1664, 48, 14, 224): "CLIP ViT-bigG/14",
    (96, 4, 16, 128): "Storyworld's CLIP",
}


def name_of(clip_vision) -> str:
    """What to call an image encoder in a report."""
    config = clip_vision.config
    sizes = tuple(config.get(key) for key in ("hidden_size", "num_hidden_layers", "patch_size", "image_size"))
    return name_of_sizes(config.get("model_type", "clip_vision_model"), sizes)


def name_of_sizes(model_type: str, sizes: tuple) -> str:
    """The same by its type and its width, layers, patch size and image size: one of ARCHITECTURES, or the sizes."""
    kind = model_type.removesuffix("_vision_model")
    if kind == "clip" and sizes in ARCHITECTURES:
        return ARCHITECTURES[sizes]
    width, layers, patch, side = sizes
    return f"{kind} of width {width}, {layers} layers, patches of {patch} pixels, images of {side}"


def in_parts(rows) -> Iterator:
    """Images or prompts, a few at a time; the host may interrupt between."""
    for start in range(0, len(rows), AT_ONCE):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield rows[start : start + AT_ONCE]


def embed_images(clip_vision, images: Tensor) -> Tensor:
    """[F, d] of IMAGE [F, H, W, 3]: the projected class token, of the middle square of each image."""
    embeds = clip_vision.encode_image(images)["image_embeds"]
    if embeds is None or embeds.ndim != 2:
        raise ValueError(
            f"{name_of(clip_vision)} gives no embedding of a whole image; a CLIP vision model is expected."
        )
    return embeds.float().cpu()


def embed_prompts(clip, prompts: tuple[str, ...], width: int) -> Tensor:
    """[F, width] of the first 77 tokens of each prompt, by the text tower whose projection has that width.

    Raises ValueError if `clip` holds no such tower, or one whose projection was not or may not have been loaded.
    """
    stage = clip.cond_stage_model
    towers = {key: child for key, child in stage.named_children() if isinstance(child, SDClipModel)}
    widths = {
        key: projection.weight.shape[0]
        for key, tower in towers.items()
        if (projection := getattr(tower.transformer, "text_projection", None)) is not None
    }
    fitting = [key for key in towers if widths.get(key) == width]
    if not fitting:
        found = ", ".join(f"{key} of width {number}" for key, number in widths.items()) or "no CLIP at all"
        raise ValueError(
            f"The clip input holds {found}, and the image encoder's embeddings have width {width}: load the text "
            "encoder that was trained together with it, or leave clip unconnected to measure the images alone."
        )
    key = fitting[0]
    if not (projected := has_projection(clip, key)):
        why = (
            "was loaded from a file without its text projection, such as a checkpoint of SD1.5 or SDXL"
            if projected is False
            else "was loaded by a node that does not show whether its file holds the text projection"
        )
        raise ValueError(
            f"The text encoder {key} {why}: load it from a file of its own ({key}.safetensors) with Load CLIP, or "
            "leave clip unconnected to measure the images alone."
        )
    tower = towers[key]
    stage.reset_clip_options()
    clip.load_model()
    try:
        tower.set_clip_options({"projected_pooled": True, "execution_device": clip.patcher.load_device})
        rows = []
        for prompt in prompts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            tokens = clip.tokenize(prompt)[key.removeprefix("clip_")]
            rows.append(tower.encode_token_weights(tokens[:1])[1])
    finally:
        stage.reset_clip_options()
    return torch.cat(rows).float().cpu()
