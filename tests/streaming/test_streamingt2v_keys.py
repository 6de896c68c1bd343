"""StreamingT2V's, StreamingSVD's and MS-Vid2Vid's files as they were published: every key has its place."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness.golden import part
from harness.streaming import shapes
from harness.tools import TOOLS, experiments
from safetensors.torch import load_file, save_file
from storyreel.core.networks.modelscope import keys
from storyreel.core.networks.modelscope.config import UNetConfig, read_unet_config
from storyreel.core.networks.modelscope.unet import UNet
from storyreel.core.networks.streaming import keys as streaming_keys
from storyreel.core.networks.streaming.appearance import TokenExpander
from storyreel.core.networks.streaming.config import (
    StreamingConfig,
    read_config,
    read_frame_encoder,
    read_token_expander,
)
from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
from storyreel.core.networks.streaming.injector import Injector
from storyreel.core.networks.streaming.model import StreamingT2V

MANIFESTS = Path(__file__).parents[1] / "manifests"
APM = (".attn2.alpha", ".attn2.conv.", ".attn2.conv_ln.")


def manifest(name: str) -> dict[str, torch.Tensor]:
    listed = json.loads((MANIFESTS / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in listed.items()}


def base_in_diffusers_layout() -> dict[str, torch.Tensor]:
    """ModelScope's own part of a StreamingT2V file."""
    base = part(manifest("streaming_t2v"), streaming_keys.UNET)
    return {key: t for key, t in base.items() if "merger" not in key and not any(own in key for own in APM)}


def test_streamingt2v():
    weights = manifest("streaming_t2v")
    unet = streaming_keys.read_unet(part(weights, streaming_keys.UNET))
    extractor = streaming_keys.read_extractor(part(weights, streaming_keys.EXTRACTOR))
    expander = part(weights, streaming_keys.EXPANDER)
    assert (len(unet), len(extractor), len(expander)) == (1703, 682, 4)
    config = read_config(shapes(unet), shapes(extractor))
    assert config == StreamingConfig()
    with torch.device("meta"):
        model = StreamingT2V(config)
        named = unet | {f"extractor.{key}": weight for key, weight in extractor.items()}
        assert shapes(model.state_dict()) == shapes(named)
        assert shapes(TokenExpander(**read_token_expander(shapes(expander))).state_dict()) == shapes(expander)
    assert sum("attn2.alpha" in key for key in unet) == 16 and len(model.injectors) == 13
    rest = {key.partition(".")[0] for key in weights} - {"base_model", "unet", "resampler"}
    assert rest == {"image_encoder", "text_encoder", "vae"}  # for the host


@pytest.mark.parametrize(
    "weights", [base_in_diffusers_layout, lambda: manifest("vid2vid_unet")], ids=["diffusers", "original"]
)
def test_both_layouts_of_modelscopes_network(weights):
    read = keys.read_weights(weights())
    config = read_unet_config(shapes(read))
    assert len(read) == 1480 and config == UNetConfig()
    for extra_rows in (0, 1):  # MS-Vid2Vid has the same keys
        with torch.device("meta"):
            assert shapes(UNet(replace(config, extra_rows=extra_rows)).state_dict()) == shapes(read)


@torch.no_grad()
def test_the_same_weights_from_both_layouts():
    """A small network of the published structure, written in either."""
    config = UNetConfig(model_channels=32, head_channels=16, context_dim=24)
    generator = torch.Generator().manual_seed(0)
    network = UNet(config).eval()
    ours = {name: torch.randn(t.shape, generator=generator) for name, t in network.state_dict().items()}
    convolutions = {key for key, t in manifest("vid2vid_unet").items() if t.ndim == 3}
    original = {key: t[..., None] if key in convolutions else t for key, t in ours.items()}
    diffusers = {key: ours[name] for key, name in keys.our_names(base_in_diffusers_layout()).items()}
    assert len(convolutions) == 34 and len(diffusers) == len(ours)
    for published in (original, diffusers):
        read = keys.read_weights(published)
        assert read.keys() == ours.keys() and all(torch.equal(t, ours[key]) for key, t in read.items())
        assert read_unet_config(shapes(read)) == config


def test_streamingsvd():
    weights = manifest("streaming_svd")
    injectors = streaming_keys.read_injectors(part(weights, "model.diffusion_model."))
    encoder = part(weights, "controlnet." + streaming_keys.FRAME_ENCODER)
    widths = [injectors[f"{number}.norm.weight"].shape[0] for number in range(13)]
    with torch.device("meta"):
        built = torch.nn.ModuleList([Injector(width) for width in widths])
        assert shapes(built.state_dict()) == shapes(injectors) and len(injectors) == 143
        sizes = read_frame_encoder(shapes(encoder))
        assert sizes["normalized"] and shapes(FrameEncoder(**sizes).state_dict()) == shapes(encoder)


def test_the_rest_of_streamingsvd_is_the_hosts_own(host):
    """Its UNet has the file's keys at the file's shapes; CAM's feature extractor is that UNet without its way up."""
    import comfy.model_detection
    import comfy.supported_models

    weights = manifest("streaming_svd")
    unet = part(weights, "model.diffusion_model.")
    extractor = {
        key: t for key, t in part(weights, "controlnet.").items() if not key.startswith(streaming_keys.FRAME_ENCODER)
    }
    own = {key: t for key, t in unet.items() if "merger" not in key}
    config = comfy.model_detection.model_config_from_unet(weights, "model.diffusion_model.")
    assert isinstance(config, comfy.supported_models.SVD_img2vid)
    with torch.device("meta"):
        network = config.get_model({}, device="meta").diffusion_model
    assert shapes(network.state_dict()) == shapes(own)
    down = {key: t for key, t in own.items() if not key.startswith(("output_blocks.", "out."))}
    assert shapes(down) == shapes(extractor)


def test_streamingsvds_other_parts_are_the_hosts_own(host):
    """Autoencoder and image encoder, from the very keys that the loader takes; the conditioner's encoder of pictures is
    the autoencoder's own, and its text tower is not used."""
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ops
    import comfy.sd
    from storyreel.host.streaming.loader import SVD_VAE, SVD_VISION

    weights = manifest("streaming_svd")
    first_stage = shapes(part(weights, SVD_VAE))
    zeros = {key: torch.zeros(()).expand(shape) for key, shape in first_stage.items()}
    assert shapes(comfy.sd.VAE(sd=zeros).first_stage_model.state_dict()) == first_stage
    encoder = {key: shape for key, shape in first_stage.items() if key.startswith("encoder.")}
    assert part(shapes(part(weights, "conditioner.embedders.3.")), "encoder.").items() >= encoder.items()

    config = json.loads((Path(comfy.clip_vision.__file__).parent / "clip_vision_config_h.json").read_text())
    visual = {key: t for key, t in weights.items() if key.startswith(SVD_VISION)}
    with torch.device("meta"):
        tower = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, "meta", comfy.ops.manual_cast)
        assert shapes(tower.state_dict()) == shapes(comfy.clip_vision.convert_to_transformers(visual, SVD_VISION))


def test_the_rest_of_streamingt2v_is_the_hosts_own(host):
    """Image encoder and autoencoder as they are; of the text encoder the layers that are used, 23 of the host's 24."""
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.diffusers_convert
    import comfy.ldm.models.autoencoder
    import comfy.ops
    from comfy.text_encoders.sd2_clip import SD2ClipModel

    weights = manifest("streaming_t2v")
    double = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, num_res_blocks=2)
    double |= dict(ch_mult=[1, 2, 4, 4], attn_resolutions=[], dropout=0.0)
    config = json.loads((Path(comfy.clip_vision.__file__).parent / "clip_vision_config_h.json").read_text())
    with torch.device("meta"):
        vae = comfy.diffusers_convert.convert_vae_state_dict(part(weights, "vae."))
        autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(embed_dim=4, ddconfig=double)
        assert shapes(autoencoder.state_dict()) == shapes(vae)

        prefix = "image_encoder.model.visual."
        visual = {key: t for key, t in weights.items() if key.startswith(prefix)}
        tower = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, "meta", comfy.ops.manual_cast)
        assert shapes(tower.state_dict()) == shapes(comfy.clip_vision.convert_to_transformers(visual, prefix))

        text = shapes(part(weights, "text_encoder."))
        known = part(shapes(SD2ClipModel(dtype=torch.float32).state_dict()), "clip_h.transformer.")
        assert known.items() >= text.items()
        unused = {key for key in known.keys() - text.keys() if not key.startswith("text_model.encoder.layers.23.")}
        assert unused == {"text_projection.weight"}


@pytest.mark.parametrize("narrow", [False, True])
def test_the_published_layout_is_written_as_it_is_read(narrow):
    """By the tool that writes Storyworld's file; at full size it is the published file's, key for key."""
    with experiments() as lab:
        published = lab.train.streaming_keys.published
    sizes = UNetConfig(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention=(True, False))
    config = StreamingConfig(sizes if narrow else UNetConfig())
    with torch.device("meta"):
        network, expander = StreamingT2V(config).state_dict(), TokenExpander().state_dict()
    written = published(network, expander, config.unet.num_res_blocks)
    if not narrow:
        own = (streaming_keys.UNET, streaming_keys.EXTRACTOR, streaming_keys.EXPANDER)
        assert shapes(written) == shapes({k: t for k, t in manifest("streaming_t2v").items() if k.startswith(own)})
    read = streaming_keys.read_unet(part(written, streaming_keys.UNET))
    extractor = streaming_keys.read_extractor(part(written, streaming_keys.EXTRACTOR))
    assert shapes(read | {f"extractor.{key}": t for key, t in extractor.items()}) == shapes(network)


@pytest.mark.parametrize("spelling", ["lora_A", "lora.down", "lora_linear_layer.down", "older"])
def test_every_layer_of_a_lora_gets_its_name(spelling):
    """Of the published network. What is the text encoder's stays as it is."""
    weights = [key for key in base_in_diffusers_layout() if key.endswith(".weight")]

    def spelt(layer: str) -> str:
        if spelling == "older" and ".to_" in layer:
            return f"unet.{layer.replace('.to_', '.processor.to_').removesuffix('.0')}_lora.down"
        return f"unet.{layer}.{'lora.down' if spelling == 'older' else spelling}"

    lora = {f"{spelt(key.removesuffix('.weight'))}.weight": number for number, key in enumerate(weights)}
    text = f"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.{spelling}.weight"
    renamed = keys.rename_lora(lora | {text: -1}, UNetConfig())
    assert renamed.pop(text) == -1
    layers = {number: key.partition(".lora")[0].partition("_lora")[0] for key, number in renamed.items()}
    ours = keys.our_names(base_in_diffusers_layout())
    assert layers == {
        number: f"diffusion_model.{ours[key].removesuffix('.weight')}" for number, key in enumerate(weights)
    }


def test_the_tool_writes_a_renamed_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOOLS)])
    import rename_lora
    from environment import SetupError

    lora = {
        "unet.transformer_in.proj_in.lora_A.weight": torch.ones(2, 3),
        "text_encoder.a.lora_A.weight": torch.ones(1),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    assert rename_lora.rename(tmp_path / "lora.safetensors", tmp_path / "new.safetensors") == "1 of 2 tensors renamed"
    renamed = load_file(tmp_path / "new.safetensors")
    assert sorted(renamed) == ["diffusion_model.input_blocks.0.1.proj_in.lora_A.weight", "text_encoder.a.lora_A.weight"]
    with pytest.raises(SetupError, match="no layer of ModelScope's UNet under diffusers' names"):
        rename_lora.rename(tmp_path / "new.safetensors", tmp_path / "again.safetensors")
