"""ToonCrafter's decoder against the published one. Sizes, frames and weight seeds come from each file's metadata."""

import pytest
import torch
from harness.golden import Golden, error, files, part, procedural, to_clips, to_frames
from storyreel.core.networks.dynamicrafter import tooncrafter
from storyreel.core.networks.dynamicrafter.config import read_decoder_sizes

SYSTEM = "tooncrafter"
TOLERANCE = 2e-5  # of max|ref|, float32: the data's README
PREFIX = "first_stage_model."


def weights_of(golden: Golden) -> dict[str, torch.Tensor]:
    return part(procedural(golden.manifest(), golden.config["weight_seed"]), PREFIX)


def read_sizes(weights: dict) -> dict:
    return read_decoder_sizes({name: t.shape for name, t in part(weights, "decoder.").items()})


@pytest.fixture(params=files(SYSTEM, "decoder_*.safetensors"))
def decoded(request):
    """(data, weights, decoder)"""
    golden = Golden(request.param)
    weights = weights_of(golden)
    decoder = tooncrafter.DualReferenceDecoder(**read_sizes(weights)).eval()
    decoder.load_state_dict(part(weights, "decoder."))
    return golden, weights, decoder


def references(golden: Golden) -> list[torch.Tensor]:
    return [reference for _, reference in sorted(golden.named(r"ref\.(\d+)").items())]


@torch.no_grad()
def test_a_clip_is_decoded_with_its_end_pictures(decoded):
    golden, _, decoder = decoded
    outputs = {}
    decoder.mid.block_2.register_forward_hook(lambda *call: outputs.update({"out.mid": call[2]}))
    refined = golden.named(r"out\.refined_(\d+)")
    for (level,) in refined:
        name = f"out.refined_{level}"
        decoder.attn_refinement[level].register_forward_hook(lambda *call, name=name: outputs.update({name: call[2]}))
    outputs["out.images"] = decoder(golden["in.z"], references(golden))
    errors = {name: error(tensor, golden[name]) for name, tensor in outputs.items()}
    assert len(errors) == 2 + len(refined) and max(errors.values()) <= TOLERANCE, errors


@torch.no_grad()
def test_the_middle_pair_of_the_second_decoding(decoded):
    golden, _, decoder = decoded
    if "out.middle2" not in golden.tensors:
        pytest.skip("this file has no second decoding")
    z = golden["in.z"]
    frames = len(z)
    again = decoder(torch.cat([z[:1], z[2:-2], z[-1:]]), references(golden))
    middle = again[frames // 2 - 2 : frames // 2]
    assert error(middle, golden["out.middle2"]) <= TOLERANCE


@torch.no_grad()
def test_two_clips_are_decoded_as_one_by_one(decoded):
    golden, _, decoder = decoded
    z = torch.cat([golden["in.z"], golden["in.z"].flip(0)])
    both = [torch.cat([reference, reference.flip(2)]) for reference in references(golden)]
    one_by_one = torch.cat([decoder(golden["in.z"], references(golden)), decoder(z.chunk(2)[1], [r[1:] for r in both])])
    assert error(decoder(z, both), one_by_one) <= TOLERANCE


@torch.no_grad()
def test_the_hosts_encoder_gives_the_end_pictures_features(decoded, host):
    from comfy.ldm.modules.diffusionmodules.model import Encoder

    golden, weights, _ = decoded
    sizes = read_sizes(weights)
    encoder = Encoder(
        ch=sizes["channels"],
        out_ch=3,
        ch_mult=sizes["channel_mult"],
        num_res_blocks=sizes["num_res_blocks"],
        attn_resolutions=[],
        in_channels=3,
        resolution=256,
        z_channels=4,
    ).eval()
    encoder.load_state_dict(part(weights, "encoder."))
    features = tooncrafter.encoder_features(encoder, golden["in.frames"].transpose(0, 1)[None])
    errors = [error(*pair) for pair in zip(features, references(golden), strict=True)]
    assert max(errors) <= TOLERANCE, errors


BLOCKS = {
    "resblock": lambda x, out: tooncrafter.VideoResBlock(x.shape[1], out.shape[1]),
    "resblock_same": lambda x, out: tooncrafter.VideoResBlock(x.shape[1], out.shape[1]),
    "mid_attn": lambda x, out: tooncrafter.FrameAttention(x.shape[1]),
    "fusion": lambda x, out: tooncrafter.Fusion(x.shape[1]),
    "combiner": lambda x, out: tooncrafter.Combiner(x.shape[1]),
}


@pytest.mark.parametrize("path", files(SYSTEM, "blocks.safetensors"))
@torch.no_grad()
def test_blocks(path):
    """Those that the file holds, one by one."""
    golden = Golden(path)
    clips, errors = len(golden["fusion.context"]), {}
    for name in BLOCKS.keys() & {name.partition(".")[0] for name in golden.tensors}:
        x, out = golden[f"{name}.x"], golden[f"{name}.out"]
        block = BLOCKS[name](x, out)
        block.load_state_dict(golden.weights(f"{name}.w."))
        if name.startswith("resblock"):
            errors[f"{name}, frame by frame"] = error(block(x, None), golden[f"{name}.spatial"])
            errors[name] = error(block(x, clips), out)
        elif f"{name}.context" in golden.tensors:
            errors[name] = error(block(x, golden[f"{name}.context"]), out)
        else:
            errors[name] = error(block(x), out)
    assert errors and max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("path", files(SYSTEM, "blocks.safetensors"))
@torch.no_grad()
def test_the_temporal_layer_alone(path):
    golden = Golden(path)
    x = golden["time_stack.x"]
    stack = tooncrafter.TimeStack(x.shape[1])
    stack.load_state_dict(golden.weights("resblock.w.time_stack."))
    assert error(stack(x), golden["time_stack.out"]) <= TOLERANCE


@pytest.mark.parametrize("path", files(SYSTEM, "blocks.safetensors"))
@torch.no_grad()
def test_the_last_convolution_reads_along_time(path):
    golden = Golden(path)
    x, clips = golden["conv_out.x"], len(golden["fusion.context"])
    conv = tooncrafter.DualReferenceDecoder(x.shape[1], (1, 1), 1).conv_out
    conv.load_state_dict(golden.weights("conv_out.w."))
    assert error(to_frames(conv.time_mix_conv(to_clips(conv(x), clips))), golden["conv_out.out"]) <= TOLERANCE
