"""What a run records, and what it refuses to record, in the real host."""

import logging

import pytest
import torch
from harness import tiny
from harness.bank_runs import differs

CUSTOM = dict(preset="custom", sampling_rate=0.6, sampling_rate_fine=0.6)


@pytest.fixture
def recording(model, probe, record):
    """The recording of a story of `cast`; keyword arguments as `record`."""

    def recording(*cast, model=model, **options):
        return record(model, probe.story_of(*cast), **CUSTOM | options)[1].recordings[0]

    return recording


# What is recorded


@pytest.mark.parametrize(
    ("cast", "anchors", "expected"),
    [
        (("A", "B"), 0, ["A", "B"]),
        (("A", "A", "A"), 2, ["A", "A"]),
        (("AB", "A", "", "B"), 1, ["A", "B"]),
        (("AB", "A"), 1, ["AB", "A"]),  # B is never alone
        (("", "A"), 0, ["A"]),
    ],
)
def test_the_anchors_of_each_character_are_recorded(recording, cast, anchors, expected):
    made = recording(*cast, anchors=anchors, steps=1)
    named = [set(image.characters) for image in made.images]
    assert [len(names) > 0 for names in named] == [True] * len(expected) and len(named) == len(expected)
    for names, shown in zip(named, expected, strict=True):
        assert names <= set(shown)
    assert frozenset().union(*named) == made.characters == set("".join(cast))


def test_only_new_characters_are_recorded_beside_a_bank(host, model, probe, record):
    """B is recorded from the frame that shows B alone, though the bank leaves B alone in the first frame, too."""
    bank = record(model, probe.story_of("A"), **CUSTOM)[1]
    (made,) = record(model, probe.story_of("AB", "B", "A"), bank=bank, anchors=1, **CUSTOM)[1].recordings
    assert [(image.number, image.characters) for image in made.images] == [(1, {"B"})]


def test_a_layer_is_recorded_as_it_is_computed(model, probe, record):
    """The stored tokens of a step are the drawn rows of what the layer got, cond and uncond apart."""
    from storyreel.core.attention import draws

    seen = {}

    def watch(n, context, value, extra):
        if extra["block"] == ("output", 5):
            for chunk, cond in zip(context.chunk(len(extra["cond_or_uncond"])), extra["cond_or_uncond"], strict=True):
                seen.setdefault((float(f"{float(extra['sigmas'][0]):.6g}"), cond), chunk)
        return n, context, value

    other = model.clone()
    other.set_model_attn1_patch(watch)
    (made,) = record(other, probe.story_of("A", "B"), seed=3, **CUSTOM)[1].recordings
    assert len(seen) == 4
    for (step, cond), hidden in seen.items():
        for place in (0, 1):
            drawn = draws.sample_each(0, step, 32, place, 4, 0.6)
            (row,) = [made.layers[step, 32].index(n) for n in made.layers[step, 32] if n == LAST_COARSE]
            assert torch.equal(made.tokens[place, step, 32, cond][row], hidden[place, drawn])


LAST_COARSE = 9  # the layer of output block 5: six on the input side, one in the middle, three at this level


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_one_of_so_many_steps(recording, stride):
    made = recording("A", step_stride=stride, steps=5)
    assert made.steps == [float(f"{sigma:.6g}") for sigma in made.origin.sigmas[:-1]][::stride]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_models_of_half_precision(host, model, probe, record, dtype):
    """A frame that reads a bank of a model in half precision is close to that of the exact model."""
    small = tiny.narrow_sd15({"fp16": torch.float16, "bf16": torch.bfloat16}[dtype])
    assert small.model.get_dtype() == next(small.model.diffusion_model.parameters()).dtype != torch.float32
    conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
    outs = []
    for one in (small, model):
        bank = record(one, probe.story_of("A"), **CUSTOM, precision="fp16" if one is small else "fp32")[1]
        reader = probe.node(host, one, "custom", story=probe.story_of("A"), bank=bank)
        outs.append(probe.sample(reader, *conds, probe.latent(1), steps=1, seed=5))
    assert differs(*outs) <= {"fp16": 0.02, "bf16": 0.1}[dtype]


# Runs in parts, and runs that fail


@pytest.fixture
def part(model, probe):
    """Sample some steps of six of a MODEL, as KSampler (Advanced) does."""
    import nodes

    conds = probe.conditioning(2, 768, 1), probe.conditioning(1, 768, 2)

    def part(model, first, last, latent=None, sampler="euler"):
        ends = dict(start_step=first, last_step=last, force_full_denoise=last >= 6, disable_noise=first > 0)
        latent = latent or probe.latent(2)
        with torch.no_grad():
            return nodes.common_ksampler(model, 1, 6, 5.0, sampler, "normal", *conds, latent, **ends)[0]

    return part


@pytest.fixture
def recorder(host, model, probe):
    from storyreel.nodes.record import StoryReelRecordCharacters

    def recorder(step_stride=1, max_gb=8.0, precision="fp32", **options):
        shared = probe.node(host, model, **{"story": probe.story_of("A", "A")} | CUSTOM | options)
        return StoryReelRecordCharacters.execute(
            model=shared, precision=precision, device="cpu", max_gb=max_gb, step_stride=step_stride
        ).result

    return recorder


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_two_halves_record_what_one_run_does(recorder, part, split, stride, sampler):
    once, whole = recorder(stride)
    part(once, 0, 10, sampler=sampler)
    halves, bank = recorder(stride)
    part(halves, split, 10, part(halves, 0, split, sampler=sampler), sampler=sampler)
    (expected,), (made,) = whole.recordings, bank.recordings
    assert made.origin == expected.origin and made.layers == expected.layers and bank.finished
    assert made.tokens.keys() == expected.tokens.keys()
    assert all(torch.equal(made.indices[slot], index) for slot, index in expected.indices.items())
    if sampler == "euler":  # a second half of heun begins with a call that one run makes after its first of that step
        assert all(differs(made.tokens[slot], tokens) <= 1e-3 for slot, tokens in expected.tokens.items())


def test_a_failed_second_half_leaves_the_first(recorder, part):
    """Nothing of the failed part stays, and the next attempt ends the run."""
    model, bank = recorder()
    begun = part(model, 0, 3)
    (before,) = bank.recordings
    contents = before.layers, before.origin, set(before.tokens)

    def fail(out, extra):
        raise RuntimeError("out of memory")

    failing = model.clone()
    failing.set_model_attn1_output_patch(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        part(failing, 3, 10, begun)
    (kept,) = bank.recordings
    assert (kept.layers, kept.origin, set(kept.tokens)) == contents and not bank.finished
    part(model, 3, 10, begun)
    assert bank.finished and len(bank.recordings[0].steps) == 6


@pytest.mark.parametrize("error", [RuntimeError, "interrupt"])
def test_a_failed_run_records_nothing_and_the_next_one_all(host, recorder, part, error):
    import comfy.model_management

    model, bank = recorder()
    steps = []

    def stop(out, extra):
        steps.append(float(extra["sigmas"][0]))
        if len(set(steps)) == 3:
            if error is RuntimeError:
                raise RuntimeError("out of memory")
            host.interrupt()
            comfy.model_management.throw_exception_if_processing_interrupted()
        return out

    failing = model.clone()
    failing.set_model_attn1_output_patch(stop)
    expected = comfy.model_management.InterruptProcessingException if error == "interrupt" else RuntimeError
    with pytest.raises(expected):
        part(failing, 0, 10)
    assert not bank.recordings and not bank.finished
    part(model, 0, 10)
    assert bank.finished and len(bank.recordings[0].steps) == 6


def test_a_second_run_is_not_recorded(recorder, part, caplog, probe):
    """Neither the same run again nor a part of other images or of another size."""
    model, bank = recorder()
    part(model, 0, 10)
    (first,) = bank.recordings
    with caplog.at_level(logging.WARNING):
        part(model, 0, 10)
    assert bank.recordings == [first]
    assert "sampled more than once; only its first run is recorded" in caplog.text
    model, bank = recorder()
    begun = part(model, 0, 3)["samples"]
    (first,) = bank.recordings
    part(model, 3, 10, {"samples": begun.repeat(1, 1, 2, 2)})
    assert bank.recordings == [first]


# Refusals


@pytest.mark.parametrize(("precision", "stride", "anchors"), [("fp32", 1, 0), ("fp16", 2, 1), ("fp8", 1, 0)])
def test_the_size_is_known_before_sampling(recorder, part, probe, precision, stride, anchors):
    """The message's number is that of the recorded bytes, within 5 % (which tokens are drawn is random)."""
    options = dict(step_stride=stride, precision=precision, anchors=anchors)
    large = dict(latent=probe.latent(2, 16, 16), first=0, last=10)
    model, bank = recorder(**options)
    part(model, **large)
    limited, empty = recorder(**options)
    expected = planned_bytes(limited, part, large)
    assert expected == pytest.approx(bank.bytes, rel=0.05) and not empty.recordings


def planned_bytes(model, part, run):
    """What the refusal says, of a node that allows a single byte."""
    from dataclasses import replace

    from storyreel.host.attention import recording

    options = model.model_options["transformer_options"]
    options[recording.RECORD] = replace(options[recording.RECORD], limit=1)
    with pytest.raises(ValueError, match=r"Record Characters: the bank needs .* GB and max_gb is") as refusal:
        part(model, **run)
    return float(str(refusal.value).split("needs ")[1].split(" ")[0]) * 1e9


def test_nothing_to_record_is_refused(model, probe, record, recorder, part):
    with pytest.raises(ValueError, match="no image of the LATENT shows a character"):
        record(model, probe.story_of("", ""), **CUSTOM)
    with pytest.raises(ValueError, match=r"apply_to .* uncond.* set apply_to to both"):
        record(model, probe.story_of("A"), apply_to="uncond", cfg=1.0, **CUSTOM)
    with pytest.raises(ValueError, match="no step of this run shares tokens"):
        record(model, probe.story_of("A"), **CUSTOM | dict(layer_prob_early=0.0, layer_prob_late=0.0))
    with pytest.raises(ValueError, match="MODEL has no Consistent Self-Attention, or its strength is 0"):
        recorder(strength=0.0)


def test_a_single_image_is_recorded_without_a_message(model, probe, record, caplog):
    with caplog.at_level(logging.WARNING):
        record(model, probe.story_of("A"), **CUSTOM)
        record(model, probe.story_of("A", "B"), **CUSTOM)
    assert "StoryReel" not in caplog.text


def test_a_bank_of_another_model_or_size_is_refused(host, model, models, probe, record, tiny_checkpoint):
    bank = record(model, probe.story_of("A"), **CUSTOM)[1]
    other = host.load_model(tiny_checkpoint("sd15"))
    with pytest.raises(ValueError, match=r"bank holds A of another SD15 \(weights .* the same checkpoint"):
        probe.node(host, other, bank=bank)
    sdxl = host.load_model(tiny_checkpoint("sdxl_slim"))
    with pytest.raises(ValueError, match=r"bank holds A of SD15 .* and MODEL is SDXL"):
        probe.node(host, sdxl, bank=bank)
    with pytest.raises(ValueError, match=r"bank holds tokens of a UNet, and MODEL is "):
        probe.node(host, models("flux"), bank=bank)
    reader = probe.node(host, model, bank=bank)
    conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
    with pytest.raises(ValueError, match="recorded at 64 x 64 pixels, and the LATENT is 192 x 128; at most 4 times"):
        probe.sample(reader, *conds, probe.latent(1, 16, 24))


@pytest.mark.parametrize("height, width", [(9, 13), (11, 9)])
def test_levels_of_odd_sizes_stay_apart(host, probe, model, record, height, width):
    """Where a few tokens are left, two levels are nearly equally large."""
    latent = probe.latent(2, height, width)
    _, bank = record(model, probe.story_of("A", "A"), preset="custom", blocks="all", latent=latent)
    (recording,) = bank.recordings
    sizes = [(height, width)]
    for _ in range(3):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    levels = {pixels: level.tokens for pixels, level in recording.levels.items()}
    assert levels == {8 << number: tall * wide for number, (tall, wide) in enumerate(sizes)}
    reader = probe.node(host, model, "custom", blocks="all", story=probe.story_of("A"), bank=bank)
    conds = probe.conditioning(1, 768, 1), probe.conditioning(1, 768, 2)
    assert probe.sample(reader, *conds, probe.latent(1, height, width)).isfinite().all()
