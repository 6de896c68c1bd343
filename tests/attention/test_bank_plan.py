"""What a run will record, without any host."""

import pytest
import torch
from storyreel.core.attention.bank import Level, Recorder, Recording
from storyreel.core.attention.bank_plan import anchors_of, plan_recording
from storyreel.core.attention.consistent import Settings
from storyreel.core.attention.schedule import Phases
from storyreel.core.attention.sharing import SharingRules, find_groups

A, B, AB, NOBODY = frozenset("A"), frozenset("B"), frozenset("AB"), frozenset()
SIGMAS = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
LAYERS = {0: Level(32, 16, 4), 1: Level(32, 16, 4), 2: Level(16, 64, 2)}
SETTINGS = Settings(layer_prob_early=0.5, layer_prob_late=0.8, seed=3)
PHASES = Phases(start=7.5, switch=4.0, end=1.5)


def plan(sigmas=SIGMAS, stride=1, earlier=()):
    return plan_recording(SETTINGS, PHASES, sigmas, LAYERS, stride, earlier).layers


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("split", range(1, 8))
def test_the_parts_of_a_run_plan_what_the_whole_does(split, stride):
    first, second = SIGMAS[: split + 1], SIGMAS[split:]
    assert plan(first, stride) | plan(second, stride, SIGMAS[:split]) == plan(stride=stride)


def test_a_level_that_occurs_twice_is_planned_once():
    assert plan([8.0, 7.0, 7.0, 6.0, 6.0000001, 5.0, *SIGMAS[4:]]) == plan()


def test_bytes_of_layers_tokens_and_conds():
    whole = Settings(sampling_rate=0.5, sampling_rate_fine=0.25)
    found = plan_recording(whole, Phases(9.0, 4.0, 0.0), SIGMAS, LAYERS, 1)
    values = 8 * (2 * 0.5 * 16 * 4 + 0.25 * 64 * 2)
    assert found.bytes(3, 2, torch.float16) == 3 * 2 * 2 * values


@pytest.mark.parametrize("anchors", [0, 1, 2])
def test_characters_of_a_bank_do_not_change_who_stands_alone(anchors):
    """Frames share B's tokens as if A were not in a bank, and A's not at all."""
    cast = (AB, B, NOBODY, B, A, AB, A)

    def sources(apart):
        groups = find_groups(range(len(cast)), cast, SharingRules(anchors=anchors), apart)
        return {row: set(group.sources) - {row} for group in groups for row in group.targets}

    alone, apart = sources(frozenset()), sources(A)
    assert [apart[row] for row in (1, 2, 3)] == [alone[row] for row in (1, 2, 3)]
    assert apart[4] == apart[6] == set() and not {4, 6} & set().union(*apart.values())
    expected = {1, 3, 5} if anchors == 0 else {1, 3} if anchors == 2 else {1}
    assert apart[0] == expected
    recorded = anchors_of(range(len(cast)), cast, anchors, A)
    assert recorded == {row: B for row in ((1, 3) if anchors != 1 else (1,))}


def test_a_second_part_keeps_the_layers_of_the_first():
    """Layers that the second part did not compute are dropped from its steps alone."""
    recording = Recording(origin=None, images=())

    def part(step, computed):
        recorder = Recorder(recording, torch.float32, lambda step, pixels: [0, 1])
        for layer in computed:
            recorder.add(0, step, 32, layer, 0, torch.ones(4, 2), lambda: torch.tensor([1, 3]))
        recorder.finish()

    part(2.0, [0, 1])
    part(1.0, [1])
    assert recording.layers == {(2.0, 32): (0, 1), (1.0, 32): (1,)}
    assert [tokens.shape[0] for tokens in recording.tokens.values()] == [2, 1]
