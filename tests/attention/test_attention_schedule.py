"""The phases of a run, the names of its steps, the messages about settings without effect; without any host."""

import pytest
from storyreel.core.attention.consistent import Phase, Settings
from storyreel.core.attention.presets import PRESETS
from storyreel.core.attention.schedule import (
    Percents,
    describe_idle,
    describe_steps,
    phases_of,
    shared_fraction,
    step_of,
)
from storyreel.core.attention.sharing import SharingRules


def sigma_at(percent):
    """Noise levels that fall evenly from 1 to 0; as the host's, beyond all at the start."""
    return 1e9 if percent <= 0 else max(0.0, 1 - percent)


def run_of(steps, first=0.0, last=1.0):
    """Noise levels of a run over this part of the sampling; without noise at its end if it reaches 1."""
    width = (last - first) / steps
    return [1 - first - width * i for i in range(steps)] + [0.0 if last == 1 else 1 - last]


def of_preset(name, **changed):
    values = {**PRESETS[name], **changed}
    percents = Percents(values["start_percent"], values["layer_prob_switch"], values["end_percent"])
    names = ("sampling_rate", "sampling_rate_fine", "layer_prob_early", "layer_prob_late", "dense_early_read")
    return Settings(SharingRules(anchors=values["anchors"]), **{name: values[name] for name in names}), percents


def message_of(settings, percents, sigmas):
    return describe_steps(settings, percents, phases_of(percents, sigma_at, sigmas), sigmas)


@pytest.mark.parametrize("preset, plain", [("low-vram", 1), ("mask", 5), ("paper", 0), ("custom", 0)])
def test_of_50_steps_the_published_first_ones_are_plain(preset, plain):
    _, percents = of_preset(preset)
    sigmas = run_of(50)
    phases = phases_of(percents, sigma_at, sigmas)
    per_step = [phases.at(sigma - 1e-9) for sigma in sigmas[:-1]]  # published: the step of the start itself shares
    assert per_step.count(Phase.BEFORE) == plain and per_step[:plain] == [Phase.BEFORE] * plain


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", range(1, 9))
def test_a_run_of_few_steps_shares_in_its_later_ones_and_needs_no_message(preset, steps):
    settings, percents = of_preset(preset)
    sigmas = run_of(steps)
    phases = phases_of(percents, sigma_at, sigmas)
    assert sum(phases.at(sigma) in (Phase.EARLY, Phase.LATE) for sigma in sigmas[:-1]) >= max(1, steps - 1)
    assert message_of(settings, percents, sigmas) is None


@pytest.mark.parametrize(
    "changed, sigmas, message",
    [
        ({}, run_of(1, 0, 0.1), "0 of 1 step share tokens: 1 is before start_percent 0.02, lower it"),
        ({"end_percent": 0.75}, run_of(6, 0.8), "0 of 6 steps share tokens: 6 are after end_percent 0.75,"),
        ({"start_percent": 0.3}, run_of(5, 0, 0.4), "1 of 5 steps shares tokens: 4 are before start_percent"),
        ({"layer_prob_late": 0.0, "layer_prob_switch": 0.6}, run_of(5, 0.58), "4 are where layer_prob_late is 0"),
    ],
)
def test_a_run_outside_of_the_range_is_counted_and_the_cause_named(changed, sigmas, message):
    assert message in message_of(*of_preset("low-vram", **changed), sigmas)


def test_half_of_the_suggested_steps_is_enough():
    settings, percents = of_preset("custom", end_percent=0.5)
    assert message_of(settings, percents, run_of(8)) is None
    assert message_of(settings, percents, run_of(8, 0.25)) is None  # 3 of 8, and 4 are shared_fraction
    assert "1 of 8 steps" in message_of(settings, percents, run_of(8, 0.45))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"sampling_rate": 0.0, "sampling_rate_fine": 0.0}, "sampling_rate is 0"),
        ({"layer_prob_early": 0.0, "layer_prob_late": 0.0}, "layer_prob_early or layer_prob_late is 0"),
        ({"layer_prob_late": 0.0, "start_percent": 0.5}, "layer_prob_early or layer_prob_late is 0"),
        ({"start_percent": 0.8, "end_percent": 0.5}, "start_percent 0.8 is not less than end_percent 0.5"),
        ({"start_percent": 0.5, "end_percent": 0.5}, "start_percent 0.5 is not less than end_percent 0.5"),
        ({"end_percent": 0.0}, "start_percent 0.02 is not less than end_percent 0"),
    ],
)
def test_settings_that_never_share_are_explained_once(changed, message):
    settings, percents = of_preset("low-vram", **changed)
    assert message in describe_idle(settings, percents) and shared_fraction(settings, percents) == 0
    assert message_of(settings, percents, run_of(8)) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_published_settings_need_no_message(preset):
    assert describe_idle(*of_preset(preset)) is None


def test_a_dense_early_read_shares_where_the_rest_does_not():
    settings, percents = of_preset("mask", dense_early_read=True, start_percent=0.9, sampling_rate=0.0)
    assert shared_fraction(settings, percents) > 0.89 and message_of(settings, percents, run_of(4)) is None


# Names of steps


def test_a_call_between_two_levels_belongs_to_the_earlier_one():
    levels = [14.6, 6.0, 2.0, 0.0]
    called = [14.6, 9.0, 6.0, 5.99, 2.0, 1.0]
    assert [step_of(sigma, levels) for sigma in called] == [14.6, 14.6, 6.0, 6.0, 2.0, 2.0]
    assert step_of(15.0, levels) == 14.6  # noise added before the first step
    assert step_of(3.0, []) == 3.0  # no schedule


def test_a_step_has_one_name_in_a_run_and_in_its_parts_despite_rounding():
    levels = [14.614646, 6.0241537, 2.0532114, 0.0291675, 0.0]
    for first in range(4):
        for sigma in levels[first:4]:
            for noise in (1 - 1e-7, 1, 1 + 1e-7):
                part = [level * noise for level in levels[first:]]
                assert step_of(sigma * noise, part) == step_of(sigma, levels)


def test_a_schedule_that_rises_again_names_a_level_alike_both_times():
    assert step_of(3.0, [10.0, 3.0, 1.0, 3.0, 1.0, 0.0]) == 3.0
