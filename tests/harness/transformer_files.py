"""Tiny files of diffusion transformers, their text encoders and VAEs, which the host's stock loaders recognize.

The host reads some widths from a file and takes others from a published model; those are kept. See `tiny` for how a
tensor of full shape fits a small file.
"""

import io
from pathlib import Path

import torch

from . import tiny
from .tiny import Shapes, shapes_of
from .transformers import FLUX2, Z_IMAGE

QWEN3_WIDTH = 2560


def _network(build, **sizes) -> Shapes:
    import comfy.ops

    with torch.device("meta"):
        yield from shapes_of(build(**sizes, operations=comfy.ops.disable_weight_init))


def flux2_klein() -> Shapes:
    """One head, one double and two single blocks."""
    from comfy.ldm.flux.model import Flux

    sizes = FLUX2 | dict(hidden_size=128, num_heads=1, axes_dim=[32] * 4, mlp_ratio=3.0, depth=1)
    return _network(Flux, **sizes | dict(context_in_dim=3 * QWEN3_WIDTH))


def z_image() -> Shapes:
    """One layer, and both pairs of refiners; the host knows it by its width."""
    from comfy.ldm.lumina.model import NextDiT

    sizes = Z_IMAGE | dict(dim=3840, n_heads=30, n_kv_heads=30, axes_dims=[32, 48, 48], ffn_dim_multiplier=8 / 3)
    return _network(NextDiT, **sizes | dict(cap_feat_dim=QWEN3_WIDTH, n_layers=1, n_refiner_layers=2, multiple_of=256))


def qwen_image() -> Shapes:
    """One layer of the published width."""
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    return _network(QwenImageTransformer2DModel, num_layers=1)


WAN_FILE = dict(dim=128, ffn_dim=128, freq_dim=256, num_heads=1, num_layers=1)


def wan22_high_noise() -> Shapes:
    """Wan 2.2 image-to-video, one layer of one head; both experts have one layout."""
    from comfy.ldm.wan.model import WanModel

    return _network(WanModel, **WAN_FILE, model_type="t2v", in_dim=36)


def wan22_low_noise() -> Shapes:
    return wan22_high_noise()


def wan_vace() -> Shapes:
    from comfy.ldm.wan.model import VaceWanModel

    return _network(VaceWanModel, **WAN_FILE, model_type="vace", vace_layers=1, vace_in_dim=96)


def _language_model(name: str, **sizes) -> Shapes:
    import comfy.ops
    import comfy.text_encoders.llama

    build = getattr(comfy.text_encoders.llama, name)
    with torch.device("meta"):
        network = build(sizes | dict(intermediate_size=64), torch.float16, "meta", comfy.ops.disable_weight_init)
    network.visual = None  # sees images
    yield from shapes_of(network)


def qwen3_4b() -> Shapes:
    """As deep as Flux.2 reads it, with one head. For the server, with the pack `small_text_encoders`."""
    return _language_model("Qwen3_4B", num_hidden_layers=28, num_attention_heads=1, num_key_value_heads=1)


def qwen25_7b() -> Shapes:
    """Two layers; the host knows it by its four heads of keys. With the pack `small_text_encoders`, too."""
    return _language_model("Qwen25_7BVLI", num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)


def umt5_xxl() -> Shapes:
    """One layer and one head of the published width. The host knows it by the MLP of a 24th layer, of which one matrix
    is here and is not read. With the pack `small_text_encoders`, too."""
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    sizes = dict(num_layers=1, d_model=4096, d_kv=64, num_heads=1, d_ff=64, dense_act_fn="gelu_pytorch_tanh")
    sizes |= dict(is_gated_act=True, model_type="umt5", vocab_size=len(PIECES) + 3)
    with torch.device("meta"):
        yield from shapes_of(T5(sizes, torch.float16, "meta", comfy.ops.disable_weight_init))
    yield "encoder.block.23.layer.1.DenseReluDense.wi_1.weight", (10240, 1)


PIECES = " abcdefghijklmnopqrstuvwxyz"


def spiece_model() -> torch.Tensor:
    """The bytes of a tokenizer of single letters, which a file of UMT5 holds."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(PIECES)]), model_writer=model, model_type="char", character_coverage=1.0,
        vocab_size=len(PIECES) + 3, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


def flux2_vae() -> Shapes:
    return tiny.plain_vae(32, batch_norm_latent=True)


def flux_vae() -> Shapes:
    return (entry for entry in tiny.plain_vae(16) if "quant_conv" not in entry[0])


def wan_vae() -> Shapes:
    """The VAE of Wan 2.1 and Qwen-Image, a twelfth as wide."""
    from comfy.ldm.wan.vae import WanVAE

    sizes = dict(z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], dropout=0.0)
    with torch.device("meta"):
        yield from shapes_of(WanVAE(dim=8, temperal_downsample=[False, True, True], **sizes))


FILES = {
    build.__name__: build
    for build in (
        flux2_klein, z_image, qwen_image, qwen3_4b, qwen25_7b, flux2_vae, flux_vae, wan_vae, wan22_high_noise,
        wan22_low_noise, wan_vace, umt5_xxl,
    )
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """Write file `name` of `FILES` into `folder` unless it is there."""
    path = tiny.write(name, folder, FILES)
    if name == "umt5_xxl" and "spiece_model" not in (weights := torch.load(path)["state_dict"]):
        torch.save({"state_dict": weights | {"spiece_model": spiece_model()}}, path)
    return path
