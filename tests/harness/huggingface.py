"""Tiny encoders with random weights in folders, written by the classes of transformers and open_clip."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SIDE, PATCH = 28, 14
OPEN_CLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "patch_size": PATCH, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


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


def random_clip(config: dict = OPEN_CLIP):
    """open_clip's own network; no weight is 0, and embeddings differ from image to image and prompt to prompt."""
    import open_clip

    torch.manual_seed(7)
    network = open_clip.CLIP(**config).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim < 2:
                weight.add_(torch.randn_like(weight) * 0.1)
            elif "embedding" in name or name.endswith("proj"):
                weight.normal_(std=0.1)
    return network


def write_open_clip(folder: Path, network, file: str = "open_clip_model.safetensors", **preprocess) -> None:
    """As open_clip publishes a model: the weights, and open_clip_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"model_cfg": OPEN_CLIP, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    weights = network.state_dict()
    torch.save(weights, folder / file) if file.endswith(".bin") else save_file(weights, folder / file)
