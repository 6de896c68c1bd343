"""Extended attention against the brute force, on random tokens, without any host."""

import pytest
import torch
from harness import brute
from storyreel.core.attention import draws
from storyreel.core.attention.consistent import Phase, Settings, draw_shared_tokens, layer_shares
from storyreel.core.attention.extended import extended_attention
from storyreel.core.attention.sharing import SharingRules, find_groups, windows
from storyreel.core.networks.attend import attend_plain

A, B, AB, NOBODY = frozenset("A"), frozenset("B"), frozenset("AB"), frozenset()
ONE = frozenset({"the hero"})
STORY = (A, A, B, NOBODY, AB, A, B, B, AB, A)
HEADS = 3


def tokens(images, count, seed=0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, count, HEADS * 8, generator=generator, dtype=dtype) for _ in range(3)]


def attend(q, k, v, settings, frames, cast, **options):
    drawn = draw_shared_tokens(settings, cast, frames, phase=Phase.EARLY, step=3, pixels=32, tokens=k.shape[1])
    if drawn is None:
        return attend_plain(q, k, v, HEADS)
    return shared(q, k, v, drawn, strength=settings.strength, **options)


def shared(q, k, v, drawn, **options):
    by_head = (tensor.unflatten(-1, (HEADS, -1)) for tensor in (q, k, v))
    return extended_attention(*by_head, drawn.groups, drawn.samples, **options).flatten(-2)


def expected(q, k, v, settings, frames, cast):
    casts = dict(enumerate(cast)) if cast else {frame: ONE for frame in frames}
    rules, count = settings.rules, k.shape[1]
    key = (settings.seed, 3, 32)
    if rules.include_self:
        return brute.algorithm_1(
            q, k, v, HEADS, frames, casts, rules.tile_size, rules.tile_stride,
            lambda first, pool: draws.sample_window(*key, first, pool, count, settings.sampling_rate),
            settings.strength,
        )  # fmt: skip
    return brute.published(
        q, k, v, HEADS, frames, casts, rules.anchors,
        lambda frame: draws.sample_each(*key, frame, count, settings.sampling_rate),
        settings.strength,
    )  # fmt: skip


PUBLISHED = [SharingRules(), SharingRules(anchors=1), SharingRules(anchors=2), SharingRules(anchors=4)]
PAPER = [
    SharingRules(tile_size=w, tile_stride=s, include_self=True) for w, s in [(0, 1), (2, 1), (3, 1), (3, 2), (4, 9)]
]


@pytest.mark.parametrize("rules", PUBLISHED + PAPER, ids=str)
@pytest.mark.parametrize("cast", [None, STORY], ids=["one hero", "story"])
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("strength", [1.0, 0.25, 3.0])
def test_equals_brute_force(rules, cast, rate, strength):
    settings = Settings(rules=rules, sampling_rate=rate, strength=strength, seed=5)
    frames = list(range(len(STORY)))
    q, k, v = tokens(len(frames), 24)
    ours, reference = attend(q, k, v, settings, frames, cast), expected(q, k, v, settings, frames, cast)
    if rate == 0:  # no shared tokens: plain attention, Algorithm 1 included
        reference = attend_plain(q, k, v, HEADS)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "rules", [SharingRules(), SharingRules(anchors=2), SharingRules(tile_size=3, include_self=True)], ids=str
)
@pytest.mark.parametrize("strength", [1.0, 0.25])
@pytest.mark.parametrize("limit", [1 << 14, 1 << 12, 1 << 8])
def test_the_memory_limit_does_not_change_the_result(rules, strength, limit):
    settings = Settings(rules=rules, strength=strength)
    frames = list(range(len(STORY)))
    q, k, v = tokens(len(frames), 24)
    ours = attend(q, k, v, settings, frames, STORY, limit=limit)
    torch.testing.assert_close(ours, attend(q, k, v, settings, frames, STORY), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "rules", [SharingRules(), SharingRules(anchors=2), SharingRules(tile_size=3, include_self=True)], ids=str
)
@pytest.mark.parametrize("strength", [0.25, 3.0])
@pytest.mark.parametrize("limit", [1 << 26, 1 << 14, 1 << 8])
def test_strength_without_a_bias_is_the_same(rules, strength, limit):
    def no_bias(q, k, v, heads, bias):
        assert bias is None
        return attend_plain(q, k, v, heads)

    settings, frames = Settings(rules=rules, strength=strength), list(range(len(STORY)))
    q, k, v = tokens(len(frames), 24)
    ours = attend(q, k, v, settings, frames, STORY, limit=limit, attend=no_bias, maskless=True)
    torch.testing.assert_close(ours, attend(q, k, v, settings, frames, STORY), rtol=0, atol=2e-6)


def test_the_memory_limit_works_head_by_head_then_key_by_key():
    """Each way of keeping under the limit is really used, as the widths of the kernel's inputs show."""
    q, k, v = tokens(4, 64)
    widths = {}
    for limit in (1 << 30, 1 << 16, 1 << 10):
        calls = widths.setdefault(limit, [])

        def spy(q, k, v, heads, bias, calls=calls):
            calls.append((heads, k.shape[1]))
            return attend_plain(q, k, v, heads, bias)

        attend(q, k, v, Settings(), list(range(4)), None, limit=limit, attend=spy)
    whole, by_heads, by_keys = widths.values()
    assert {heads for heads, _ in whole} == {HEADS}
    assert max(heads for heads, _ in by_heads) < HEADS and min(keys for _, keys in by_heads) > 64
    assert {heads for heads, _ in by_keys} == {1} and max(keys for _, keys in by_keys) < 64


def test_rate_one_is_dense_attention_over_the_whole_batch():
    q, k, v = tokens(5, 24)
    ours = attend(q, k, v, Settings(sampling_rate=1.0), list(range(5)), None)
    together = [t.flatten(0, 1)[None] for t in (q, k, v)]
    torch.testing.assert_close(ours, attend_plain(*together, HEADS).view_as(ours), rtol=0, atol=1e-12)


def test_gather_equals_mask():
    q, k, v = tokens(4, 24)
    drawn = draw_shared_tokens(Settings(), None, range(4), phase=Phase.EARLY, step=0, pixels=32, tokens=24)
    (group,), (sample,) = drawn.groups, drawn.samples
    sampled = torch.zeros(4, 24, dtype=torch.bool)
    for row, index in zip(group.sources, sample, strict=True):
        sampled[row, index] = True
    mask = sampled.flatten().expand(4, 24, -1).clone()
    for row in range(4):
        mask[row, :, row * 24 : (row + 1) * 24] = True
    together = [t.flatten(0, 1)[None] for t in (q, k, v)]
    masked = attend_plain(*together, HEADS, mask.flatten(0, 1))
    ours = shared(q, k, v, drawn)
    torch.testing.assert_close(ours, masked.view_as(ours), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rules", PUBLISHED + PAPER, ids=str)
def test_permuting_the_batch_permutes_the_result(rules):
    """Draws belong to frames, so the order of frames in the batch makes no difference."""
    settings = Settings(rules=rules)
    frames = list(range(len(STORY)))
    q, k, v = tokens(len(frames), 24)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(1))
    ours = attend(q[order], k[order], v[order], settings, order.tolist(), STORY)
    torch.testing.assert_close(ours, attend(q, k, v, settings, frames, STORY)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rules", PUBLISHED + PAPER, ids=str)
def test_frames_without_shared_tokens_are_bit_equal_to_plain(rules):
    q, k, v = tokens(len(STORY), 24, dtype=torch.float32)
    ours = attend(q, k, v, Settings(rules=rules), list(range(len(STORY))), STORY)
    plain = attend_plain(q, k, v, HEADS)
    for frame, names in enumerate(STORY):
        if names == NOBODY:
            assert torch.equal(ours[frame], plain[frame])
    assert not torch.equal(ours[-1], plain[-1])


@pytest.mark.parametrize("rules", PUBLISHED + PAPER, ids=str)
def test_one_image_shares_nothing(rules):
    drawn = draw_shared_tokens(Settings(rules=rules), None, [0], phase=Phase.EARLY, step=0, pixels=32, tokens=8)
    assert drawn is None


def test_an_nc_frame_shares_no_tokens():
    q, k, v = tokens(len(STORY), 24)
    frames = list(range(len(STORY)))
    before = attend(q, k, v, Settings(), frames, STORY)
    nobody = STORY.index(NOBODY)
    k[nobody] += 1
    v[nobody] += 1
    after = attend(q, k, v, Settings(), frames, STORY)
    changed = [frame for frame in frames if not torch.equal(before[frame], after[frame])]
    assert changed == [nobody]


def test_later_frames_read_their_anchors_one_way():
    q, k, v = tokens(6, 24)
    settings = Settings(rules=SharingRules(anchors=2))
    before = attend(q, k, v, settings, range(6), None)
    v[4] += 1  # a later frame
    after = attend(q, k, v, settings, range(6), None)
    assert [i for i in range(6) if not torch.equal(before[i], after[i])] == [4]
    v[1] += 1  # an anchor
    anchored = attend(q, k, v, settings, range(6), None)
    assert all(not torch.equal(after[i], anchored[i]) for i in range(6))


def test_a_character_that_never_stands_alone_is_anchored_in_its_first_frames():
    cast = (AB, A, AB, A)
    groups = find_groups(range(4), cast, SharingRules(anchors=1))
    sources = {row: set(group.sources) - {row} for group in groups for row in group.targets}
    assert sources == {0: {1}, 1: set(), 2: {0, 1}, 3: {1}}


def test_fewer_queries_than_keys():
    """Token merging leaves fewer queries; every one of them still attends to all keys."""
    q, k, v = tokens(3, 24)
    whole = attend(q, k, v, Settings(), range(3), None)
    some = attend(q[:, :5], k, v, Settings(), range(3), None)
    torch.testing.assert_close(some, whole[:, :5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("size", range(0, 13))
@pytest.mark.parametrize("stride", [1, 2, 3, 50])
def test_every_frame_lies_in_a_window(count, size, stride):
    result = windows(count, size, stride)
    assert set().union(*result) == set(range(count))
    assert all(len(window) == (size if 0 < size < count else count) for window in result)
    assert len(set(result)) == len(result)


# Draws


def test_draws_are_functions_of_their_key_alone():
    first = draws.sample_each(1, 2, 32, 3, 100, 0.5)
    torch.manual_seed(7)
    draws.coin(1, 2, 3)
    assert torch.equal(first, draws.sample_each(1, 2, 32, 3, 100, 0.5))
    others = [(0, 2, 32, 3), (1, 0, 32, 3), (1, 2, 16, 3), (1, 2, 32, 0)]
    assert not any(torch.equal(first, draws.sample_each(*key, 100, 0.5)) for key in others)


def test_draws_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    draws.sample_each(1, 2, 32, 3, 100, 0.5)
    draws.sample_window(1, 2, 32, 0, [0, 1], 100, 0.5)
    draws.coin(1, 2, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_each_token_is_shared_with_the_sampling_rate():
    shared = torch.cat([draws.sample_each(0, 0, 32, frame, 1000, 0.3) for frame in range(100)])
    assert abs(len(shared) / 100_000 - 0.3) < 0.006  # four standard deviations
    assert torch.bincount(shared, minlength=1000).min() > 8


def test_a_window_shares_an_exact_number_of_tokens():
    for window, rate in [(0, 0.5), (3, 0.31), (9, 1.0)]:
        shared = draws.sample_window(0, 0, 32, window, [window, window + 1, window + 2], 50, rate)
        assert sum(map(len, shared)) == int(rate * 150)
        assert all(len(index.unique()) == len(index) for index in shared)


def test_layers_share_with_the_probability_of_their_phase():
    settings = Settings(layer_prob_early=0.7, layer_prob_late=0.9)

    def often(phase):
        return sum(layer_shares(settings, phase, step, layer) for step in range(50) for layer in range(40)) / 2000

    assert abs(often(Phase.EARLY) - 0.7) < 0.042 and abs(often(Phase.LATE) - 0.9) < 0.027
    assert often(Phase.BEFORE) == often(Phase.AFTER) == 0
