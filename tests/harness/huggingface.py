"""Tiny Hugging Face folders with random weights, written by the package's own classes."""

import json
from pathlib import Path

import torch

SIDE, PATCH = 28, 14


def network_of(kind: str, layers: int = 2):
    """A tiny CLIPVisionModelWithProjection, CLIPModel or Dinov2Model."""
    import transformers as t

    torch.manual_seed(3)
    sizes = dict(hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, image_size=SIDE, patch_size=PATCH)
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**sizes, mlp_ratio=2)).eval()
    vision = t.CLIPVisionConfig(**sizes, intermediate_size=64, projection_dim=16)
    if kind == "clip_vision_model":
        return t.CLIPVisionModelWithProjection(vision).eval()
    text = t.CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    config = t.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    return t.CLIPModel(config).eval()


def write_folder(folder: Path, kind: str, preprocessor: dict | None = None):
    """Write the folder and return its network."""
    network = network_of(kind)
    network.save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return network
