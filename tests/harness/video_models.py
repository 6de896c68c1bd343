"""Tiny video models on random weights, each with a VAE of its latents, all of the host's own classes.

Widths are small; whatever a class takes from a published model stays: channels of latents, of the concatenated image,
of an image encoder's tokens. Where the published VAE is large whatever its file says, the host's small one of the same
latents stands for it (TAEHV).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from .dynamicrafter import random
from .extending import tiny_vision, tiny_wan_vae
from .transformers import WAN, fill

TEXT, TOKENS = 12, 5  # width of a prompt's tokens, and how many


def tiny_tae(channels: int):
    """The host's small VAE for latents of so many channels: 16 (Wan 2.1, HunyuanVideo), 32 or 48, of 4k + 1 frames."""
    import comfy.sd
    from comfy.taesd.taehv import TAEHV

    return comfy.sd.VAE(random(TAEHV(latent_channels=channels)), dtype=torch.float32)


LTX_BLOCKS = ["compress_all", {}]
LTX_VAE = dict(
    dims=3, in_channels=3, out_channels=3, latent_channels=128, patch_size=4, norm_layer="pixel_norm",
    latent_log_var="uniform", causal_decoder=False, encoder_base_channels=16, decoder_base_channels=16,
    blocks=[["res_x", {"num_layers": 1}], *[LTX_BLOCKS] * 3, ["res_x", {"num_layers": 1}]],
)  # fmt: skip


def tiny_ltx_vae():
    """LTX-Video's VAE of 8k + 1 frames, 32 pixels a side to a latent."""
    import comfy.sd
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    weights = random(VideoVAE(config=LTX_VAE))
    weights["per_channel_statistics.std-of-means"] = torch.ones(128)
    weights["per_channel_statistics.mean-of-means"] = torch.zeros(128)
    return comfy.sd.VAE(weights, dtype=torch.float32, metadata={"config": json.dumps({"vae": LTX_VAE})})


AUDIO_VAE = dict(
    double_z=True, mel_bins=64, z_channels=8, resolution=256, downsample_time=False, in_channels=2, out_ch=2, ch=8,
    ch_mult=[1, 1, 1], num_res_blocks=1, attn_resolutions=[], dropout=0.0, mid_block_add_attention=False,
    norm_type="pixel", causality_axis="height",
)  # fmt: skip
VOCODER = dict(
    resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3, 5]], upsample_rates=[5, 4, 2, 2, 2],
    upsample_kernel_sizes=[16, 16, 8, 4, 4], upsample_initial_channel=64, stereo=True,
)  # fmt: skip


def tiny_audio_vae():
    """LTX-2's VAE of sound, with its vocoder."""
    import comfy.sd
    from comfy.ldm.lightricks.vae.audio_vae import AudioVAE

    config = {"model": {"params": {"ddconfig": AUDIO_VAE, "sampling_rate": 16000}}}
    config |= {"preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}}}
    metadata = {"config": json.dumps({"audio_vae": config, "vocoder": VOCODER})}
    weights = random(AudioVAE(metadata=metadata))
    statistics = "autoencoder.per_channel_statistics."
    weights[f"{statistics}std-of-means"] = torch.ones_like(weights[f"{statistics}std-of-means"])
    return comfy.sd.VAE(weights, dtype=torch.float32, metadata=metadata)


@dataclass(frozen=True)
class Tiny:
    """One family. config: class in comfy.supported_models, of a network of these sizes. vae: makes its VAE.

    step: frames for each latent frame after the first. multiple: of the sides of a frame in pixels. extras: what its
    prompts hold beside the text. latents: frames of a short shot's latent. vision, audio: make its image encoder and
    its VAE of sound, None: it has none.
    """

    config: str
    sizes: dict
    vae: Callable
    step: int = 4
    multiple: int = 16
    extras: Callable[[int], dict] = lambda rows: {}
    latents: int = 3
    vision: Callable | None = None
    audio: Callable | None = None

    @property
    def frames(self) -> int:
        """Of a short shot."""
        return (self.latents - 1) * self.step + 1


def pooled(rows: int) -> dict:
    return {"pooled_output": torch.linspace(-1, 1, rows * 8).view(rows, 8)}


def masked(rows: int) -> dict:
    """The whole prompt is read, as T5's encoder says."""
    return {"attention_mask": torch.ones(rows, TOKENS, dtype=torch.long)}


def siglip():
    """As wide as the image encoder that HunyuanVideo 1.5 reads."""
    return tiny_vision(1152)


def vit_h():
    """As wide as the image encoder that Wan 2.1 reads."""
    return tiny_vision(1280)


LTX = dict(in_channels=128, cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2, num_layers=1)
LTX |= dict(caption_channels=TEXT)
LTX_AV = LTX | dict(  # its prompts hold tokens for the video and, behind them, for the audio
    caption_channels=TEXT // 2, audio_cross_attention_dim=32, audio_attention_head_dim=16, audio_num_attention_heads=2,
    connector_attention_head_dim=8, connector_num_attention_heads=2, connector_num_layers=1,
)  # fmt: skip
HUNYUAN = dict(
    image_model="hunyuan_video", in_channels=65, out_channels=32, vec_in_dim=None, context_in_dim=TEXT, hidden_size=32,
    mlp_ratio=4.0, num_heads=2, depth=1, depth_single_blocks=1, axes_dim=[4, 6, 6], theta=256, patch_size=[1, 1, 1],
    qkv_bias=True, guidance_embed=False, byt5=False, meanflow=False, use_cond_type_embedding=True, vision_in_dim=1152,
    meanflow_sum=True,
)  # fmt: skip
KANDINSKY = dict(
    image_model="kandinsky5", in_text_dim=TEXT, in_text_dim2=8, time_dim=32, model_dim=32, ff_dim=32,
    visual_embed_dim=132, num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 6, 6),
)  # fmt: skip

FAMILIES = {
    "wan21_t2v": Tiny("WAN21_T2V", WAN, tiny_wan_vae),
    "wan21_i2v": Tiny("WAN21_I2V", WAN | dict(model_type="i2v", in_dim=36), tiny_wan_vae, vision=vit_h),
    "wan21_flf": Tiny("WAN21_I2V", WAN | dict(model_type="i2v", in_dim=36, flf_pos_embed_token_number=10),
                      tiny_wan_vae, vision=vit_h),
    "wan22_i2v": Tiny("WAN21_T2V", WAN | dict(in_dim=36), tiny_wan_vae),
    "wan22_5b": Tiny("WAN22_T2V", WAN | dict(in_dim=48, out_dim=48), lambda: tiny_tae(48), multiple=32),
    "wan21_vace": Tiny("WAN21_Vace", WAN | dict(model_type="vace", vace_layers=1, vace_in_dim=96), tiny_wan_vae),
    "ltxv": Tiny("LTXV", LTX | dict(image_model="ltxv"), tiny_ltx_vae, step=8, multiple=32, extras=masked),
    "ltx2": Tiny("LTXAV", LTX_AV | dict(image_model="ltxav"), tiny_ltx_vae, step=8, multiple=32, extras=masked,
                 audio=tiny_audio_vae),
    "hunyuan15": Tiny("HunyuanVideo15", HUNYUAN, lambda: tiny_tae(32), extras=pooled, vision=siglip),
    "kandinsky5": Tiny("Kandinsky5", KANDINSKY, lambda: tiny_tae(16), extras=pooled, latents=6),
}  # fmt: skip


def build(name: str, seed: int = 7):
    """The MODEL of a family, of weights drawn by `seed`. Skips the test where the host has no such class."""
    import comfy.supported_models
    from storyreel.host.common.loading import patcher_of, set_precision

    family = FAMILIES[name]
    if not hasattr(comfy.supported_models, family.config):
        pytest.skip(f"this ComfyUI has no {family.config}")
    config = getattr(comfy.supported_models, family.config)(dict(family.sizes))
    set_precision(config, 0, torch.float32)
    model = config.get_model({})
    fill(model.diffusion_model, seed)
    return patcher_of(model)


def prompt(name: str, rows: int, seed: int) -> list:
    """A CONDITIONING of `rows` prompts, which a family reads."""
    text = torch.randn(rows, TOKENS, TEXT, generator=torch.Generator().manual_seed(seed))
    return [[text, FAMILIES[name].extras(rows)]]
