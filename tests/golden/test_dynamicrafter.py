"""DynamiCrafter's networks against the published ones. Sizes, frames and heads come from each file's metadata."""

import pytest
import torch
from harness.golden import Golden, error, files, noise, to_clips, to_frames
from storyreel.core.networks import blocks
from storyreel.core.networks.dynamicrafter.attention import TextImageAttention
from storyreel.core.networks.dynamicrafter.config import (
    ResamplerConfig,
    UNetConfig,
    read_resampler_config,
    read_unet_config,
)
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.dynamicrafter.unet import UNet

SYSTEM = "dynamicrafter"
TOLERANCE = 2e-5  # of max|ref|, float32: the data's README
# Rounding errors of layer after layer add up as noise, in both formats to as many of their steps. Over 20 draws of
# weights and of sizes that is 2.0 to 3.3 of them; the worst single value varies twice as much, so it is not held. One
# timestep and one frame stride off, or angles of the timestep in half precision, are 4.8 steps and more.
HALF_STEPS = 4


def load(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network.load_state_dict(weights)
    return network.eval()


def unet_config(golden: Golden) -> UNetConfig:
    """The network's configuration from the metadata."""
    spec = golden.config["unet_config"]
    return UNetConfig(
        in_channels=spec["in_channels"],
        out_channels=spec["out_channels"],
        model_channels=spec["model_channels"],
        channel_mult=tuple(spec["channel_mult"]),
        num_res_blocks=spec["num_res_blocks"],
        attention=tuple(2**level in spec["attention_resolutions"] for level in range(len(spec["channel_mult"]))),
        head_channels=spec["num_head_channels"],
        context_dim=spec["context_dim"],
        learned_gate=spec.get("image_cross_attention_scale_learnable", False),
        default_fs=spec["default_fs"],
    )


def cases(golden: Golden) -> list[str]:
    return sorted(name.removesuffix(".out") for name in golden.tensors if name.endswith(".out"))


@torch.no_grad()
def predict(unet: UNet, golden: Golden, case: str, dtype=torch.float32) -> torch.Tensor:
    x, context = (golden[f"{case}.{name}"].to(dtype) for name in ("x", "context"))
    return unet(x, golden[f"{case}.t"], context, golden.tensors.get(f"{case}.fs"))


@pytest.mark.parametrize("path", files(SYSTEM, "unet_*.safetensors"))
def test_unet(path):
    golden = Golden(path)
    unet = load(UNet(unet_config(golden)), golden.weights())
    errors = {case: error(predict(unet, golden, case), golden[f"{case}.out"]) for case in cases(golden)}
    assert errors and max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("path", files(SYSTEM, "unet_*.safetensors"))
def test_unet_in_half_precision(path, dtype):
    golden = Golden(path)
    unet = load(UNet(unet_config(golden)), golden.weights()).to(dtype)
    errors = {case: noise(predict(unet, golden, case, dtype), golden[f"{case}.out"]) for case in cases(golden)}
    assert errors and max(errors.values()) <= HALF_STEPS * torch.finfo(dtype).eps, errors


@pytest.mark.parametrize("path", files(SYSTEM, "unet_*.safetensors"))
def test_a_unets_sizes_are_read_from_its_weights(path):
    golden = Golden(path)
    expected = unet_config(golden)
    shapes = {name: tensor.shape for name, tensor in golden.weights().items()}
    assert read_unet_config(shapes, default_fs=expected.default_fs) == expected


@pytest.mark.parametrize("path", files(SYSTEM, "unet_*.safetensors"))
def test_image_tokens_can_be_weakened_and_removed(path):
    golden = Golden(path)
    unet = load(UNet(unet_config(golden)), golden.weights())
    case = cases(golden)[0]
    inputs = [golden[f"{case}.{name}"] for name in ("x", "t", "context")]
    with torch.no_grad():
        whole = unet(*inputs)
        assert torch.equal(unet(*inputs, image_strength=(1, 1)), whole)
        outer, middle = unet(*inputs, image_strength=(0.5, 1)), unet(*inputs, image_strength=(1, 0.5))
        assert not torch.equal(outer, whole) and not torch.equal(middle, whole) and not torch.equal(outer, middle)
        without = unet(*inputs, image_strength=(0, 0))
        inputs[2] = torch.cat([inputs[2][:, :77], torch.randn_like(inputs[2][:, 77:])], 1)
        assert torch.equal(unet(*inputs, image_strength=(0, 0)), without)


@pytest.mark.parametrize("path", files(SYSTEM, "resampler_*.safetensors"))
def test_resampler(path):
    golden = Golden(path)
    spec = golden.config["resampler_config"]
    config = ResamplerConfig(
        **{
            name: spec[name] for name in ("dim", "depth", "heads", "dim_head", "embedding_dim", "output_dim", "ff_mult")
        },
        queries=spec["num_queries"] * (spec["video_length"] or 1),
    )
    weights = golden.weights()
    assert read_resampler_config({name: tensor.shape for name, tensor in weights.items()}, spec["dim_head"]) == config
    resampler = load(Resampler(config), weights)
    with torch.no_grad():
        assert error(resampler(golden["x"]), golden["out"]) <= TOLERANCE


def run_block(name: str, golden: Golden) -> torch.Tensor:
    config = golden.config
    clips, weights, x = config["b"], golden.weights(f"{name}.weights."), golden[f"{name}.x"]
    heads = config["channels"] // config["num_head_channels"]
    if name.startswith("spatial_transformer"):
        learned = any(key.endswith("alpha") for key in weights)
        cross_attention = TextImageAttention(x.shape[1], config["context_dim"], heads, learned)
        block = load(blocks.SpatialTransformer(x.shape[1], heads, cross_attention), weights)
        context = golden[f"{name}.context"]
        return block(x, context[:, :77], context[:, 77:])
    if name == "resblock":
        emb, out = golden["resblock.emb"], golden["resblock.out"]
        return load(blocks.ResBlock(x.shape[1], out.shape[1], emb.shape[1]), weights)(x, emb, clips)
    if name == "temporal_conv":
        return load(blocks.TemporalConv(x.shape[1]), weights)(x)
    if name == "temporal_transformer":
        block = load(blocks.TemporalTransformer(x.shape[1], heads), weights)
        return to_clips(block(to_frames(x), clips), clips)
    if name == "init_attn":
        spec = config["init_attn"]
        sizes = spec["in_channels"], spec["heads"], spec["heads"] * spec["d_head"]
        block = load(blocks.TemporalTransformer(*sizes, linear=False), weights)
        return to_clips(block(to_frames(x), clips), clips)
    kind = {"downsample": blocks.Downsample, "upsample": blocks.Upsample}[name]
    return load(kind(x.shape[1]), weights)(x)


@pytest.mark.parametrize("path", files(SYSTEM, "blocks.safetensors"))
def test_blocks(path):
    """One by one, with inputs so small that a wrong epsilon of a norm shows."""
    golden = Golden(path)
    with torch.no_grad():
        errors = {name: error(run_block(name, golden), golden[f"{name}.out"]) for name in cases(golden)}
    assert errors and max(errors.values()) <= TOLERANCE, errors
