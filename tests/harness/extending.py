"""Prompts that extend a clip on Storyworld's encoders and a tiny StreamingT2V between them, in API form."""

from pathlib import Path

import torch

from .dynamicrafter import random
from .streaming import write_storyworld

FILE = "streaming_storyworld_tiny.safetensors"
CHUNK, OVERLAP, STEPS, SIZE = 6, 3, 2, 64
SCENES = ("waving on a beach", "walking in a forest", "jumping at night", "waving in a room", "walking in a town")
CLIP = (0x3070C0, 0x4080D0, 0x5090E0)  # colors of its frames


def write_model(models: Path) -> Path:
    path = models / "checkpoints" / FILE
    return path if path.exists() else write_storyworld(path)


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def pictures(colors) -> dict:
    """A clip of one-colored frames, as node "clip"."""
    nodes = {
        f"f{i}": node("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=rgb) for i, rgb in enumerate(colors)
    }
    batch = {f"images.image{i}": [id, 0] for i, id in enumerate(nodes)}
    return nodes | {"clip": node("BatchImagesNode", **batch)}


def parts(file: str = FILE) -> dict:
    """The models and sampling settings of a chunk: nodes "world", "load", "sampler", "sigmas"."""
    return {
        "world": node("StoryReelLoadStoryworld", precision="fp32"),
        "load": node("StoryReelStreamingLoader", checkpoint=file, model_type="auto", precision="fp32"),
        "sampler": node("StoryReelDDIMSampler", eta=1.0, keep_clean=False),
        "sigmas": node("StoryReelDDIMSigmas", model=["load", 0], spacing="leading", steps=STEPS),
    }


def extend(scenes=SCENES, colors=CLIP, **inputs) -> dict:
    """Nodes "extend", with one of `scenes` a chunk, all before it, and "save" behind it."""
    lines = "\n".join(f"[Hero] {scene}" for scene in scenes)
    story = dict(characters="[Hero] a big blue hero", scenes=lines, style="(No style)", negative="")
    settings = dict(model=["load", 0], vae=["world", 2], clip_vision=["world", 3], sampler=["sampler", 0])
    settings |= dict(sigmas=["sigmas", 0], frames=["clip", 0], positive=["rows", 0], negative=["rows", 1], anchor=0)
    settings |= dict(chunks=len(scenes), chunk_length=CHUNK, overlap=OVERLAP, cfg=2.0, cam_strength=1.0)
    settings |= dict(apm_strength=1.0, color_match=0.0, seed=3, fps=8.0, output_images=False)
    video = {"filename_prefix": "extended", "format": "auto", "codec": "auto"}
    return {
        **parts(),
        **pictures(colors),
        "story": node("StoryReelScript", **story),
        "rows": node("StoryReelEncodeStory", clip=["world", 1], story=["story", 0]),
        "extend": node("StoryReelExtendVideo", **settings | inputs),
        "save": node("SaveVideo", video=["extend", 0], **video),
    }


def tiny_vae():
    """A VAE of the host with Stable Diffusion's layout, 4 channels and 8 pixels a side to a latent."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = dict(double_z=True, z_channels=4, resolution=32, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 1, 1, 1])
    params = {"embed_dim": 4, "ddconfig": {**sizes, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}}
    return comfy.sd.VAE(random(AutoencoderKL(**params)), config={"params": params}, dtype=torch.float32)


def tiny_wan_vae():
    """Wan's VAE, as the host recognizes it."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    sizes = dict(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[])
    weights = random(WanVAE(**sizes, temperal_downsample=[False, True, True], image_channels=3, dropout=0.0))
    return comfy.sd.VAE(weights, dtype=torch.float32)


def tiny_vision(hidden: int = 96, projection: int = 64):
    """An image encoder of the host."""
    from storyreel.host.common.clip_vision import from_config

    sizes = dict(hidden_size=hidden, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    sizes |= dict(hidden_act="gelu", image_size=32, patch_size=16, num_channels=3, projection_dim=projection)
    vision = from_config(sizes | {"model_type": "clip_vision_model"})
    vision.load_sd(random(vision.model))
    return vision


def tiny_wan(pictures: bool = True, image_encoder: bool = True, seed: int = 0):
    """Wan of the host's own class. pictures: image-to-video. image_encoder: reads its embeddings, as Wan 2.1 does."""
    import comfy.model_base
    import comfy.supported_models
    from storyreel.host.common.loading import patcher_of, set_precision

    sizes = dict(image_model="wan2.1", model_type="i2v" if image_encoder else "t2v", in_dim=36 if pictures else 16)
    sizes |= dict(dim=32, ffn_dim=64, num_heads=2, num_layers=1, text_dim=64, freq_dim=32)
    config = comfy.supported_models.WAN21_I2V(sizes)
    set_precision(config, 0, torch.float32)
    model = comfy.model_base.WAN21(config, image_to_video=image_encoder)
    model.diffusion_model.load_state_dict(random(model.diffusion_model, seed))
    return patcher_of(model)
