"""Training a motion predictor: it learns what can be learnt, reports if it did not, and loses nothing on the way."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from storyreel.core.networks.semantic_motion import training
from storyreel.core.networks.semantic_motion.config import TRAINING, PredictorConfig, read_training
from storyreel.core.networks.semantic_motion.predictor import MotionPredictor
from storyreel.core.networks.semantic_motion.training import TokenBatchSampler, TokenClip, ValidationResult, make_batch
from storyreel.core.training import TrainConfig, seeded, train

SMALL = PredictorConfig(tokens=2, token_width=12, width=32, depth=1, heads=2, frames=8)
PLAN = TrainConfig(steps=200, batch_size=16, learning_rate=3e-3, ema=0.98, warmup=10)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def curved(number: int, frames: int) -> torch.Tensor:
    """A third of a turn of one wheel, which every clip begins elsewhere: its ends determine the frames between."""
    wheel = torch.linalg.qr(noise(24, 2))[0].T * 5
    angle = 2.4 * number + torch.linspace(0, 2 * math.pi / 3, frames)
    return (torch.stack([angle.cos(), angle.sin()], -1) @ wheel).view(frames, 2, 12)


def straight(number: int, frames: int) -> torch.Tensor:
    ends = noise(2, 2, 12, seed=number)
    return torch.lerp(ends[0], ends[1], torch.linspace(0, 1, frames)[:, None, None])


def write_clips(folder, motion, lengths=(8,) * 24) -> list[TokenClip]:
    clips = [TokenClip(folder / f"{number}.safetensors", frames) for number, frames in enumerate(lengths)]
    for number, clip in enumerate(clips):
        save_file({training.TOKENS: motion(number, clip.frames).half()}, clip.path)
    return clips


def learn(clips, state, plan=PLAN, config=SMALL, watch=lambda step: None):
    """(the averaged network, the log, its result on held-out clips)"""
    kept, held_out = training.split_clips(clips, 0.25, plan.seed)
    batches = TokenBatchSampler(kept, config, config.frames)

    def loss(network, generator):
        return training.loss(network, batches.sample(plan.batch_size, generator))

    def validate(network) -> ValidationResult:
        return training.validate(network, held_out, config, config.frames)

    network = seeded(lambda: MotionPredictor(config), plan.seed)
    average, log = train(network, loss, plan, state, lambda network: {"mse": validate(network).mse}, watch)
    return average, log, validate(average)


# What is learnt


def test_curved_motion_is_learnt(tmp_path):
    clips = write_clips(tmp_path, curved)
    average, log, result = learn(clips, tmp_path / "state")
    assert result.beats_interpolation and result.clips == 6 and result.gain > 0.8, result
    assert result.cosine > result.cosine_interpolation
    assert "beats interpolation on 6 held-out clips" in result.summary
    assert log[-1]["step"] == PLAN.steps and log[-1]["mse"] == pytest.approx(result.mse)
    assert log[-1]["loss"] < log[0]["loss"] / 2
    few = training.validate(average, clips[:3], SMALL, SMALL.frames)  # are no proof, however much better it is on them
    assert few.clips == 3 and few.gain_low > 0 and not few.beats_interpolation
    assert "is not known to beat interpolation, which takes 5 held-out clips, on 3 held-out clips" in few.summary


def test_no_gain_on_straight_motion_is_reported(tmp_path):
    _, _, result = learn(write_clips(tmp_path, straight), tmp_path / "state")
    assert not result.beats_interpolation and "does NOT beat interpolation on 6 held-out clips" in result.summary, (
        result
    )


@pytest.mark.parametrize("config", [replace(SMALL, ends=1), replace(SMALL, keyframes=True)], ids=["start", "keyframes"])
def test_other_keyframes(tmp_path, config):
    """The start alone, which stands still without a predictor; and sometimes images between."""
    clips = write_clips(tmp_path, curved)
    _, _, result = learn(clips, tmp_path / "state", config=config)
    assert result.beats_interpolation
    draws = [
        TokenBatchSampler(clips, config, 8).sample(2, torch.Generator().manual_seed(seed)).is_keyframe
        for seed in range(20)
    ]
    counts = {int(is_keyframe.sum()) for is_keyframe in draws}
    assert counts == ({1} if config.ends == 1 else {2, 3})
    assert all(is_keyframe[0] and is_keyframe[-1] == (config.ends == 2) for is_keyframe in draws)


def test_results_are_those_of_the_formulas(tmp_path):
    """Errors over the frames between alone, in every whole window; each clip counts once; the interval holds them."""
    clips = write_clips(tmp_path, curved, (8, 3, 17))
    network = seeded(lambda: MotionPredictor(SMALL), 1)
    torch.nn.init.normal_(network.proj_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    result = training.validate(network, clips, SMALL, 8)
    rows = []
    for clip in clips:
        tokens, length = load_file(clip.path)[training.TOKENS].float(), min(8, clip.frames)
        row = []
        for start in range(0, clip.frames - length + 1, length):
            truth = tokens[start : start + length]
            path = torch.stack([torch.lerp(truth[0], truth[-1], i / (length - 1)) for i in range(length)])
            known = torch.tensor([i in (0, length - 1) for i in range(length)])
            with torch.no_grad():
                output = network(path[None], known)[0]
            row.append([(guess - truth)[1:-1].square().mean().item() for guess in (output, path)])
        assert len(row) == max(1, clip.frames // 8)
        rows.append(torch.tensor(row).mean(0))
    mean = torch.stack(rows).mean(0)
    assert [result.mse, result.mse_interpolation] == pytest.approx(mean.tolist(), rel=1e-3)
    assert result.gain == pytest.approx(1 - (mean[0] / mean[1]).item(), rel=1e-3)
    assert result.gain_low <= result.gain <= result.gain_high


def test_clips_that_stand_still_are_no_gain():
    interval = training.gain_interval(torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert interval == (0, 0)


# Batches


def test_short_clips_come_whole_and_others_at_their_length(tmp_path):
    clips = write_clips(tmp_path, curved, (3, 5, 20))
    lengths = set()
    for seed in range(40):
        batch = TokenBatchSampler(clips, SMALL, 8).sample(3, torch.Generator().manual_seed(seed))
        assert batch.target.shape == batch.interpolated.shape == (3, len(batch.is_keyframe), 2, 12)
        assert torch.equal(batch.interpolated[:, [0, -1]], batch.target[:, [0, -1]])
        lengths.add(len(batch.is_keyframe))
    assert lengths == {3, 5, 8}


@pytest.mark.parametrize("frames", [6, 4])
def test_frames_with_tokens_of_their_own(frames):
    """Frame i of a window is compared in its own slot, between the same slot of both ends."""
    window = noise(frames, 6, 2, 12)
    batch = make_batch([window], [0, frames - 1])
    slots = [round(i * 5 / (frames - 1)) for i in range(frames)]
    for i, slot in enumerate(slots):
        assert torch.equal(batch.target[0, i], window[i, slot])
        between = torch.lerp(window[0, slot], window[-1, slot], i / (frames - 1))
        torch.testing.assert_close(batch.interpolated[0, i], between)


def test_held_out_clips_are_not_trained_on():
    clips = list(range(20))
    kept, held_out = training.split_clips(clips, 0.25, 3)
    assert sorted(kept + held_out) == clips and len(held_out) == 5
    assert training.split_clips(clips, 0.25, 3) == (kept, held_out) != training.split_clips(clips, 0.25, 4)
    assert [len(part) for part in training.split_clips([1, 2], 0.9, 0)] == [1, 1]
    with pytest.raises(ValueError, match="There is 1 clip; at least 2 are expected"):
        training.split_clips([1], 0.1, 0)


# Nothing is lost


class Stopped(BaseException):
    """Like the host's interruption, not an Exception."""


def test_a_stopped_run_resumes_with_the_same_result(tmp_path):
    """To the last bit, its log as well, wherever it stopped: before the first step, between two points of the log."""
    clips = write_clips(tmp_path, curved)
    plan = replace(PLAN, steps=130)
    unbroken, log, _ = learn(clips, tmp_path / "unbroken", plan)
    stops = iter([0, 7, 64])

    def watch(step):
        if step == upcoming[0]:
            upcoming[0] = next(stops, None)
            raise Stopped

    upcoming = [next(stops)]
    for _ in range(3):
        with pytest.raises(Stopped):
            learn(clips, tmp_path / "broken", plan, watch=watch)
    steps = []
    resumed, again, _ = learn(clips, tmp_path / "broken", plan, watch=lambda step: steps.append(step))
    assert steps == list(range(64, 130)) and again == log
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_seeds(tmp_path):
    clips = write_clips(tmp_path, curved)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = (learn(clips, tmp_path / f"{seed}", replace(PLAN, steps=3, seed=seed))[0] for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = learn(clips, tmp_path / "again", replace(PLAN, steps=3))[0]
    weights = [network.state_dict()["proj_out.weight"] for network in (one, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_file_holds_the_metadata_of_its_training():
    assert read_training(None) == read_training({}) == {}
    assert read_training({TRAINING: json.dumps({"run": "a"})}) == {"run": "a"}
