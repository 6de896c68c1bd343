"""The Semantic Motion Predictor against its formula, and the path of tokens through a shot."""

import json
import math
from dataclasses import replace

import pytest
import torch
from harness.dynamicrafter import random
from storyreel.core.motion import trajectory
from storyreel.core.motion.trajectory import Trajectory
from storyreel.core.networks.animatediff.module import ClipNorm, MotionModule
from storyreel.core.networks.semantic_motion.config import METADATA, PredictorConfig, read_config, write_config
from storyreel.core.networks.semantic_motion.predictor import MotionPredictor

SMALL = PredictorConfig(tokens=3, token_width=20, width=48, depth=2, heads=4, frames=9)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(frames: int, *keyframe_indices: int) -> torch.Tensor:
    return torch.tensor([frame in (0, frames - 1, *keyframe_indices) for frame in range(frames)])


def predictor(config: PredictorConfig = SMALL) -> MotionPredictor:
    """A predictor without idle layers, as if trained."""
    network = MotionPredictor(config).eval()
    network.load_state_dict(random(network))
    return network


# The predictor


class Layers:
    """Layers by their formulas, in float64."""

    def __init__(self, weights: dict):
        self.w = {name: t.double() for name, t in weights.items()}

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)

    def norm(self, x, name):
        centered = x - x.mean(-1, keepdim=True)
        unit = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, x, name, heads):
        q, k, v = (self.linear(x, f"{name}.to_{part}") for part in "qkv")
        size, out = q.shape[-1] // heads, []
        for head in range(heads):
            of = slice(head * size, (head + 1) * size)
            out.append((q[:, of] @ k[:, of].T / math.sqrt(size)).softmax(-1) @ v[:, of])
        return self.linear(torch.cat(out, -1), f"{name}.to_out.0")

    def gated(self, x, name):
        value, gate = self.linear(x, f"{name}.net.0.proj").chunk(2, -1)
        return self.linear(value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2, f"{name}.net.2")


def by_the_formula(weights: dict, config: PredictorConfig, keys: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """One clip [L, N, D] in float64, a head and a token at a time."""
    by = Layers(weights)
    w = by.w
    x = torch.stack(
        [
            by.linear(keys[i, n].double(), "proj_in")
            + w["frame_position"][i]
            + w["token_position"][n]
            + (w["given_mark"] if known[i] else 0)
            for i in range(keys.shape[0])
            for n in range(keys.shape[1])
        ]
    )
    for number in range(config.depth):
        block = f"blocks.{number}"
        x = x + by.attention(by.norm(x, f"{block}.norm1"), f"{block}.attn", config.heads)
        x = x + by.gated(by.norm(x, f"{block}.norm2"), f"{block}.ff")
    added = by.linear(by.norm(x, "norm_out"), "proj_out").view_as(keys)
    return keys + torch.where(known[:, None, None], 0.0, added)


@torch.no_grad()
def test_the_formula():
    network, keys, known = predictor(), noise(2, 7, 3, 20), given(7, 4)
    output = network(keys, known)
    for clip, interpolated in zip(output, keys, strict=True):
        reference = by_the_formula(network.state_dict(), SMALL, interpolated, known)
        torch.testing.assert_close(clip.double(), reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, PredictorConfig(depth=1, frames=16), replace(SMALL, ends=1)], ids=str)
@torch.no_grad()
def test_an_untrained_predictor_is_the_interpolation_to_the_last_bit(config):
    torch.manual_seed(0)
    keys = noise(1, config.frames, config.tokens, config.token_width)
    assert torch.equal(MotionPredictor(config)(keys, given(config.frames)), keys)


@torch.no_grad()
def test_keyframes_keep_their_tokens():
    keys, known = noise(1, 9, 3, 20), given(9, 5)
    output = predictor()(keys, known)
    assert torch.equal(output[:, known], keys[:, known])
    changed = (output != keys).flatten(2).all(-1)[0]
    assert torch.equal(changed, ~known)


@torch.no_grad()
def test_every_token_attends_to_every_frame_and_depends_on_its_own():
    network, keys, known = predictor(), noise(1, 6, 3, 20), given(6)
    output = network.difference(keys, known)
    moved = keys.clone()
    moved[0, 4, 2] += 1
    assert (network.difference(moved, known) != output)[:, 1:-1].flatten(2).any(-1).all()
    order = torch.tensor([0, 2, 1, 3, 4, 5])
    assert not torch.allclose(network.difference(keys[:, order], known), output[:, order], atol=1e-3)


def test_a_published_size_in_full():
    with torch.device("meta"):
        network = MotionPredictor(PredictorConfig())
    assert len(network.blocks) == 8 and {block.attn.heads for block in network.blocks} == {16}
    assert {block.attn.to_q.weight.shape for block in network.blocks} == {(1024, 1024)}


def test_sizes_travel_in_the_metadata():
    config = PredictorConfig("dynamicrafter", 16, 1024, 256, 4, 8, 32, 1, True)
    assert read_config(write_config(config)) == config


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (None, "states no storyreel_motion_predictor"),
        ({}, "states no storyreel_motion_predictor"),
        ({METADATA: "[8]"}, "is no list of sizes by name"),
        ({METADATA: json.dumps({"layers": 8})}, "states layers, which this version does not know"),
        ({METADATA: json.dumps({"heads": 12})}, "width is 1024; a multiple of 12 heads"),
        ({METADATA: json.dumps({"depth": "8"})}, "depth is '8'; a number of 1 and more"),
        ({METADATA: json.dumps({"ends": 3})}, "ends are 3; 1 or 2"),
    ],
)
def test_invalid_metadata_are_refused(stated, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_config(stated)


def test_what_does_not_fit_the_predictor_is_refused():
    with pytest.raises(ValueError, match="The shot has 10 frames, and the motion predictor knows at most 9"):
        predictor()(noise(1, 10, 3, 20), given(10))
    with pytest.raises(ValueError, match="4 tokens of width 20; the motion predictor expects 3 of width 20"):
        predictor()(noise(1, 9, 4, 20), given(9))


# The motion module


def motion_by_the_formula(weights: dict, x: torch.Tensor, heads: int) -> torch.Tensor:
    """One clip [T, C, H, W], a place at a time."""
    by = Layers(weights)
    frames, channels, height, width = x.shape
    x = x.double()
    groups = x.view(frames, 32, -1)
    variance = groups.var(-1, unbiased=False, keepdim=True)
    normed = ((groups - groups.mean(-1, keepdim=True)) / (variance + 1e-6).sqrt()).view_as(x)
    normed = normed * by.w["norm.weight"][:, None, None] + by.w["norm.bias"][:, None, None]
    table = torch.zeros(frames, channels, dtype=torch.double)
    for p in range(frames):
        for c in range(channels):
            angle = p / 10000 ** (2 * (c // 2) / channels)
            table[p, c] = math.cos(angle) if c % 2 else math.sin(angle)
    out, block = x.clone(), "transformer_blocks.0"
    for row in range(height):
        for column in range(width):
            h = by.linear(normed[:, :, row, column], "proj_in")
            for number in range(2):
                attention_input = by.norm(h, f"{block}.norms.{number}") + table
                h = h + by.attention(attention_input, f"{block}.attention_blocks.{number}", heads)
            h = h + by.gated(by.norm(h, f"{block}.ff_norm"), f"{block}.ff")
            out[:, :, row, column] += by.linear(h, "proj_out")
    return out


@pytest.mark.parametrize("spread", [1.0, 2e-3], ids=["usual", "so small that a norm's epsilon is visible"])
@torch.no_grad()
def test_motion_modules_formula(spread):
    module = MotionModule(64, frames=24).eval()
    tables = {key: t for key, t in module.state_dict().items() if key.endswith(".pe")}
    module.load_state_dict(random(module) | tables)
    clips = spread * noise(2, 5, 64, 2, 3)
    output = module(clips.flatten(0, 1), 2).unflatten(0, (2, 5))
    for clip, x in zip(output, clips, strict=True):
        reference = motion_by_the_formula(module.temporal_transformer.state_dict(), x, heads=8)
        torch.testing.assert_close(clip.double(), reference, rtol=0, atol=1e-5)


@torch.no_grad()
def test_norms_over_the_whole_clip():
    """The statistics are those of all its frames, and of no other clip."""
    norm, x = torch.nn.GroupNorm(32, 64), noise(6, 64, 2, 3) * torch.arange(1, 7)[:, None, None, None]
    output = ClipNorm(norm)(x, 2)
    for clip, reference in zip(x.split(3), output.split(3), strict=True):
        groups = clip.transpose(0, 1).reshape(32, -1)
        expected = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(reference, expected.view(64, 3, 2, 3).transpose(0, 1), rtol=0, atol=1e-5)


# The path


@pytest.mark.parametrize("frames", [2, 3, 16, 64])
def test_a_straight_line_at_even_steps(frames):
    ends = noise(2, 16, 24)
    path = trajectory.interpolate(ends, [0, frames - 1], trajectory.timing([0, frames - 1], frames))
    assert torch.equal(path[0], ends[0]) and torch.equal(path[-1], ends[1])
    for i in range(frames):
        torch.testing.assert_close(path[i], ends[0] + (ends[1] - ends[0]) * i / (frames - 1))


@pytest.mark.parametrize("easing", trajectory.EASINGS)
@pytest.mark.parametrize("own", [False, True], ids=["shared tokens", "tokens of their own"])
def test_two_equal_images_stand_still_to_the_last_bit(easing, own):
    picture = noise(*(7, 3, 5) if own else (3, 5))
    times = trajectory.timing([0, 6], 7, easing, hold_start=1, hold_end=2)
    path = trajectory.interpolate(torch.stack([picture, picture]), [0, 6], times)
    assert torch.equal(path, picture if own else picture.expand(7, -1, -1))


def test_frames_may_have_tokens_of_their_own():
    ends = noise(2, 5, 3, 4)
    path = trajectory.interpolate(ends, [0, 4], trajectory.timing([0, 4], 5))
    for i in range(5):
        torch.testing.assert_close(path[i], ends[0, i] + (ends[1, i] - ends[0, i]) * i / 4)


@pytest.mark.parametrize("easing", trajectory.EASINGS)
def test_keyframes_are_reached_at_their_frames(easing):
    pictures, keyframe_indices = noise(4, 3, 5), [0, 3, 4, 11]
    path = trajectory.interpolate(pictures, keyframe_indices, trajectory.timing(keyframe_indices, 12, easing))
    assert torch.equal(path[keyframe_indices], pictures)


def test_easing_and_holding():
    times = {easing: trajectory.timing([0, 10], 11, easing) for easing in trajectory.EASINGS}
    assert torch.equal(times["linear"], torch.arange(11).double())
    for indices in times.values():
        assert indices[0] == 0 and indices[-1] == 10 and (indices.diff() > 0).all()
    assert (times["ease in"] <= times["linear"]).all() and times["ease in"][5] < 5
    assert (times["ease out"] >= times["linear"]).all() and times["ease out"][5] > 5
    smooth = times["ease in and out"]
    assert smooth[5] == 5 and smooth[1] < 1 and smooth[9] > 9
    held = trajectory.timing([0, 10], 11, hold_start=3, hold_end=2)
    assert (held[:4] == 0).all() and (held[-3:] == 10).all() and (held[3:9].diff() > 0).all()
    with pytest.raises(ValueError, match="hold_start is 5 and hold_end is 5; no motion is left"):
        trajectory.timing([0, 10], 11, hold_start=5, hold_end=5)


def test_retimed_at_its_own_frames_a_path_is_itself():
    path = noise(9, 3, 5)
    assert torch.equal(trajectory.retime(path, torch.arange(9).double()), path)
    half = trajectory.retime(path, torch.tensor([0.5, 7.25], dtype=torch.float64))
    torch.testing.assert_close(half[0], (path[0] + path[1]) / 2)
    torch.testing.assert_close(half[1], path[7] * 0.75 + path[8] * 0.25)


def test_default_positions_of_keyframes():
    assert (
        trajectory.spread_evenly(1, 16) == [0]
        and trajectory.spread_evenly(2, 16) == [0, 15]
        and trajectory.spread_evenly(3, 17) == [0, 8, 16]
    )
    for keyframe_indices in ([0, 5, 5, 15], [0, 9, 4, 15], [0, 16], [-1, 15]):
        with pytest.raises(ValueError, match="ascending numbers from 0 to 15 are expected"):
            trajectory.check_keyframe_indices(keyframe_indices, 16)
    trajectory.check_keyframe_indices([0, 4, 15], 16)


def test_concatenation():
    one, two = (Trajectory(noise(frames, 3, 5, seed=frames), "ip-plus", description=f"{frames}") for frames in (6, 9))
    whole = trajectory.concat(one, two, 2)
    assert len(whole) == 13 and torch.equal(whole.tokens[:4], one.tokens[:4])
    assert torch.equal(whole.tokens[6:], two.tokens[2:])
    torch.testing.assert_close(whole.tokens[4], (2 * one.tokens[4] + two.tokens[0]) / 3)
    assert torch.equal(trajectory.concat(one, two, 0).tokens, torch.cat([one.tokens, two.tokens]))
    with pytest.raises(ValueError, match=r"ip-plus \(3 x 5\) and the second of dynamicrafter \(3 x 5\)"):
        trajectory.concat(one, replace(two, token_space="dynamicrafter"))
    with pytest.raises(ValueError, match="6 and 9 frames; an overlap of 7 is too long"):
        trajectory.concat(one, two, 7)


def test_the_plane_of_a_motion():
    """A curve drawn in two directions of token space is recovered, up to its rotation in the plane."""
    angle = torch.linspace(0, 3, 12)
    curve = torch.stack([3 * angle.cos(), angle.sin()], -1)
    directions = torch.linalg.qr(noise(60, 2))[0]
    places, shares = trajectory.principal_plane((curve @ directions.T + 4).view(12, 4, 15))
    assert shares[0] > shares[1] > 0 and shares.sum().item() == pytest.approx(1)
    distances = torch.cdist(curve.double(), curve.double())
    torch.testing.assert_close(torch.cdist(places, places), distances, rtol=0, atol=1e-4)
    still, _ = trajectory.principal_plane(noise(1, 4, 15).expand(5, -1, -1))
    assert still.shape == (5, 2) and still.abs().max() < 1e-5


def test_step_lengths():
    path = torch.zeros(3, 2, 4)
    path[1, 0, 0], path[2, 0, 0] = 3, 3
    assert trajectory.step_lengths(path).tolist() == [1.5, 0]
