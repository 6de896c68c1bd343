"""StreamingT2V's networks against the published ones. Sizes, frames and weight seeds come from each file's metadata."""

import pytest
import torch
from harness.golden import Golden, difference, error, files, procedural
from harness.streaming import load, shapes, streaming_model
from storyreel.core.networks.blocks import CrossAttention
from storyreel.core.networks.modelscope import keys
from storyreel.core.networks.modelscope.config import read_unet_config
from storyreel.core.networks.modelscope.unet import UNet
from storyreel.core.networks.streaming.appearance import AppearanceAttention, TokenExpander
from storyreel.core.networks.streaming.config import read_frame_encoder, read_token_expander
from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
from storyreel.core.networks.streaming.injector import Injector

SYSTEM = "streamingt2v"
MODULE, WHOLE = 1e-5, 1e-4  # of max|ref| for single modules, absolute for whole networks: the data's README


def build(weights: dict[str, torch.Tensor], extra_rows: int = 0) -> UNet:
    unet = UNet(read_unet_config(shapes(weights), extra_rows)).eval()
    unet.load_state_dict(weights)
    return unet


@pytest.mark.parametrize("path", files(SYSTEM, "vid2vid_unet.safetensors"))
@torch.no_grad()
def test_ms_vid2vid(path):
    golden = Golden(path)
    weights = keys.read_weights(procedural(golden.manifest(), golden.value("seed"), "v2v."))
    unet = build(weights, extra_rows=1)
    config = unet.config
    assert config.model_channels == golden.value("dim") and config.head_channels == golden.value("head")
    assert list(config.channel_mult) == golden.value("mult") and config.context_dim == golden.value("ctx")
    output = unet(golden["in.x"], golden["in.t"], golden["in.context"])
    assert difference(output, golden["out"]) <= WHOLE
    assert difference(build(weights)(golden["in.x"], golden["in.t"], golden["in.context"]), golden["out"]) > 100 * WHOLE


FRAME_ENCODERS = ("cam_frame_encoder.safetensors", "svd_cam_frame_encoder.safetensors")


@pytest.mark.parametrize("path", [path for name in FRAME_ENCODERS for path in files(SYSTEM, name)])
@torch.no_grad()
def test_frame_encoder(path):
    golden = Golden(path)
    weights = golden.weights("w.")
    sizes = read_frame_encoder(shapes(weights))
    spec = golden.config
    assert list(sizes["widths"]) == spec["block_out_channels"] and sizes["out_channels"] == spec["out_channels"]
    assert sizes["normalized"] == spec["use_normalization"]
    assert error(load(FrameEncoder(**sizes), weights)(golden["in.frames"]), golden["out.embedding"]) <= MODULE


@pytest.mark.parametrize("path", files(SYSTEM, "cam_injector.safetensors"))
@torch.no_grad()
def test_injector(path):
    golden = Golden(path)
    for width in golden.config["channels"]:
        name = f"c{width}"
        weights = golden.weights(f"w.{name}.temporal_transformer.")
        injector = load(Injector(width, head_channels=golden.config["head_dim"]), weights)
        skip, memory = golden[f"in.{name}.skip"], golden[f"in.{name}.cam"]
        x, memory = skip.flatten(0, 1), memory.flatten(0, 1)
        output = injector(x, memory, len(skip))
        assert error(output, golden[f"out.{name}"].flatten(0, 1)) <= MODULE
        assert torch.equal(injector(x, memory, len(skip), strength=0.0), x)
        halfway = injector(x, memory, len(skip), strength=0.5)
        torch.testing.assert_close(halfway, (x + output) / 2)


@pytest.mark.parametrize("path", files(SYSTEM, "apm.safetensors"))
@torch.no_grad()
def test_token_expander(path):
    golden = Golden(path)
    weights = golden.weights("w.resampler.")
    spec, sizes = golden.value("resampler"), read_token_expander(shapes(weights))
    assert sizes == dict(dim=spec["cross_attention_dim"], inner=spec["inner_dim"], count=spec["expansion_factor"])
    expander = load(TokenExpander(**sizes), weights)
    assert error(expander(golden["in.clip_embed"]), golden["out.tokens"]) <= MODULE
    for (count,), frames in golden.named(r"in\.clip_embed_(\d+)frames").items():
        assert error(expander(frames.unflatten(0, (-1, count))), golden[f"out.tokens_{count}frames"]) <= MODULE


@pytest.mark.parametrize("path", files(SYSTEM, "apm.safetensors"))
@torch.no_grad()
def test_appearance_attention(path):
    golden = Golden(path)
    spec, weights = golden.value("attention"), golden.weights("w.attn.")
    text_tokens, tokens = weights["conv.weight"].shape[:2]
    attention = AppearanceAttention(
        spec["query_dim"], spec["context_dim"], spec["heads"], text_tokens, tokens - text_tokens
    )
    load(attention, weights)
    ((count,), context), *further = golden.named(r"in\.context(\d+)").items()
    assert count == tokens and not further
    text, image = context.split([text_tokens, tokens - text_tokens], dim=1)
    assert error(attention.mix(text, image), golden["out.context_mixed"]) <= MODULE
    assert error(attention(golden["in.hidden"], text, image), golden["out.hidden"]) <= MODULE
    plain = CrossAttention(spec["query_dim"], spec["context_dim"], spec["heads"])
    load(plain, {key: t for key, t in weights.items() if key.startswith("to_")})
    without = attention(golden["in.hidden"], text, image, 0.0)
    assert torch.equal(without, plain(golden["in.hidden"], text))
    assert torch.equal(without, attention(golden["in.hidden"], text))


@pytest.fixture(params=files(SYSTEM, "unet_cam.safetensors"))
def whole(request):
    """(data, model, the inputs behind the timestep)"""
    golden = Golden(request.param)
    model = streaming_model(golden.manifest(), golden.value("seed"))
    frames = golden["in.frames"].unflatten(0, (-1, golden.value("n_cond")))
    with torch.no_grad():
        features = model.encode_frames(frames)
    return golden, model, (golden["in.text"], golden["in.image_tokens"], features)


@torch.no_grad()
def test_whole_network(whole):
    golden, model, conditioning = whole
    spec = golden.config
    assert model.config.widths == spec["block_out_channels"]
    assert model.config.head_channels == spec["attention_head_dim"]
    assert list(model.streaming.frame_widths) == golden.value("cond_channels")
    x = golden["in.latents"]
    for timestep in golden.value("timesteps"):
        output = model(x, torch.full((len(x),), timestep), *conditioning)
        assert difference(output, golden[f"out.eps_t{timestep}"]) <= WHOLE


@torch.no_grad()
def test_features_of_the_frames_before(whole):
    golden, model, (text, _, features) = whole
    x = golden["in.latents"]
    times = torch.full((len(x),), golden.value("timesteps")[0])
    features = model.extractor(x[:, :, : golden.value("n_cond")], times, text, features)
    for (number,), feature in golden.named(r"out\.cam_down_(\d+)").items():
        assert difference(features[number], feature) <= WHOLE
    assert difference(features[-1], golden["out.cam_mid"]) <= WHOLE


@torch.no_grad()
def test_strength_0_is_the_model_without(whole):
    golden, model, (text, image, features) = whole
    x = golden["in.latents"]
    times = torch.full((len(x),), golden.value("timesteps")[0])
    no_cam = model(x, times, text, image, features, cam_strength=0.0)
    assert difference(no_cam, golden["out.eps_nocam"]) <= WHOLE
    assert torch.equal(no_cam, model(x, times, text, image))
    assert torch.equal(model(x, times, text, image, features, apm_strength=0.0), model(x, times, text, None, features))
    base = UNet(model.config)
    load(base, {name: t for name, t in model.state_dict().items() if name in base.state_dict()})
    neither = model(x, times, text, image, features, cam_strength=0.0, apm_strength=0.0)
    assert torch.equal(neither, base(x, times, text))
    assert difference(neither, no_cam) > 100 * WHOLE
