"""Shares of attention against the brute force, and how a map of them is averaged, written and drawn; without any host.

The brute force gives the shares where the values say whose a token is: of image i, all values are unit vector i.
"""

import pytest
import torch
from harness import brute
from harness.tools import tools
from storyreel.core.attention import draws, map_chart, map_report
from storyreel.core.attention.attention_map import AttentionMap, MapLayer, bank_names, frame_name
from storyreel.core.attention.consistent import Phase, Settings, draw_shared_tokens
from storyreel.core.attention.shares import Shares
from storyreel.core.attention.sharing import Group, SharingRules

A, B, AB, NOBODY = frozenset("A"), frozenset("B"), frozenset("AB"), frozenset()
ONE = frozenset({"the hero"})
STORY = (A, A, B, NOBODY, AB, A, B)
HEADS, TOKENS = 3, 13
IMAGES = len(STORY)
RULES = [
    SharingRules(),
    SharingRules(anchors=1),
    SharingRules(anchors=2),
    SharingRules(tile_size=3, include_self=True),
    SharingRules(tile_size=4, tile_stride=2, include_self=True),
]


def projected(images=IMAGES, tokens=TOKENS, seed=0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(images, tokens, HEADS, 8, generator=generator, dtype=dtype) for _ in range(2)]


def unit_vectors(images=IMAGES, tokens=TOKENS):
    """Values that say whose a token is. [images, tokens, HEADS * 8]"""
    return torch.eye(images, 8, dtype=torch.double)[:, None, None].expand(images, tokens, HEADS, 8).flatten(2)


def means(out):
    """[B, N, HEADS * 8] -> [B, 8]: what the queries of a row gave to each image."""
    return out.unflatten(-1, (HEADS, 8)).mean((1, 2))


def brute_shares(q, k, settings, cast):
    casts, rules = dict(enumerate(cast)) if cast else dict.fromkeys(range(IMAGES), ONE), settings.rules
    flat, frames, key = (q.flatten(2), k.flatten(2), unit_vectors()), list(range(IMAGES)), (settings.seed, 3, 32)
    if rules.include_self:
        out = brute.algorithm_1(
            *flat, HEADS, frames, casts, rules.tile_size, rules.tile_stride,
            lambda first, pool: draws.sample_window(*key, first, pool, TOKENS, settings.sampling_rate),
            settings.strength,
        )  # fmt: skip
    else:
        out = brute.published(
            *flat, HEADS, frames, casts, rules.anchors,
            lambda frame: draws.sample_each(*key, frame, TOKENS, settings.sampling_rate),
            settings.strength,
        )  # fmt: skip
    return means(out)[:, :IMAGES]


def our_shares(q, k, settings, cast, **options):
    drawn = draw_shared_tokens(settings, cast, range(len(q)), phase=Phase.EARLY, step=3, pixels=32, tokens=k.shape[1])
    shares = Shares.empty(len(q), 0)
    shares.add(q, k, drawn.groups, drawn.samples, strength=settings.strength, **options)
    return shares.sums


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("cast", [None, STORY], ids=["one hero", "story"])
@pytest.mark.parametrize("strength", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_shares_equal_the_brute_force(rules, cast, strength, rate):
    q, k = projected()
    settings = Settings(rules=rules, sampling_rate=rate, strength=strength)
    ours = our_shares(q, k, settings, cast)
    assert (ours - brute_shares(q, k, settings, cast)).abs().max() < 1e-12
    assert (ours.sum(1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("limit", [1, 1 << 12, 1 << 30])
def test_the_memory_limit_does_not_change_the_shares(limit):
    q, k = projected(dtype=torch.float32)
    settings = Settings(strength=0.5)
    ours = our_shares(q, k, settings, STORY, limit=limit)
    assert (ours - brute_shares(q, k, settings, STORY)).abs().max() < 1e-5


def test_memory_stays_under_the_limit():
    """512 tokens of 320 channels, as in `test_cost`."""
    with tools("benches", "measures") as modules:
        drawn = draw_shared_tokens(Settings(), None, range(8), phase=Phase.EARLY, step=0, pixels=32, tokens=512)
        q, k = torch.randn(2, 8, 512, 5, 64)
        for limit in (1 << 20, 4 << 20):
            add = lambda: Shares.empty(8, 0).add(q, k, drawn.groups, drawn.samples, limit=limit)  # noqa: B023, E731
            assert modules.measures.peak_bytes(add, "cpu") <= limit


def test_moved_keys_own_tokens_and_images_of_a_bank():
    """Targets that read: all their own tokens but the last two; sources by other keys than their own; a bank."""
    q, k = projected(3)
    moved, (bank,) = projected(3, seed=1)[1], projected(1, 5, seed=2)[1]
    sample = [torch.tensor([0, 4, 5]), torch.tensor([1, 2])]
    group = Group((0, 1), {0: 1.0, 1: 1.0, 2: 1.0}, 0, "rest", stored=(1,))
    own = [torch.arange(TOKENS - 2)] * 3
    shares = Shares.empty(3, 2)
    shares.add(q, k, [group], [sample], shared=moved, own=own, stored={1: (bank, bank)}, strength=0.7)
    for row in range(3):
        read = [source for source in (0, 1) if source != row]
        keys = [k[row, : TOKENS - 2], bank, *(moved[source, sample[source]] for source in read)]
        columns, lengths = torch.tensor([row, 4, *read]), torch.tensor([len(part) for part in keys])
        labels = torch.eye(5, 8, dtype=torch.double)[columns.repeat_interleave(lengths)]
        counts = torch.full((len(labels),), 0.7)
        counts[: lengths[0]] = 1
        values = labels[:, None].expand(-1, HEADS, 8).flatten(1)
        out = brute.attention(q[row].flatten(1), torch.cat(keys).flatten(1)[None], values[None], HEADS, counts[None])
        assert torch.allclose(shares.sums[row], means(out[None])[0, :5], atol=1e-12)


def test_queries_outside_a_mask_read_their_own_tokens_alone():
    q, k = projected(2)
    group, sample = Group((0, 1), {0: 1.0, 1: 1.0}, 0, "rest"), [torch.arange(6)] * 2
    mask = torch.arange(TOKENS)[None] < torch.tensor([[4], [0]])
    masked, inside = Shares.empty(2, 0, mask), Shares.empty(2, 0)
    masked.add(q, k, [group], [sample])
    inside.add(q[:, :4], k, [group], [sample])
    assert masked.sums[0, 1].item() == pytest.approx(inside.sums[0, 1].item() * 4 / TOKENS)
    assert masked.sums[1].tolist() == [0, 1]


def test_parts_of_queries_and_heads_add_up():
    q, k = projected(2)
    call = [Group((0, 1), {0: 1.0, 1: 1.0}, 0, "rest")], [[torch.arange(6)] * 2]
    mask = torch.arange(TOKENS)[None] < torch.tensor([[9], [5]])
    whole, parts = Shares.empty(2, 0, mask), Shares.empty(2, 0, mask)
    whole.add(q, k, *call)
    for index in (torch.arange(0, TOKENS, 2), torch.arange(1, TOKENS, 2)):
        of_queries = parts.of_queries(index, len(index), TOKENS)
        for heads in (slice(0, 1), slice(1, 3)):
            of_queries.of_heads(len(range(3)[heads]), 3).add(q[:, index, heads], k[:, :, heads], *call)
    assert torch.allclose(whole.sums, parts.sums, atol=1e-12)


def small_map():
    """Two frames and a bank's image, two layers, two steps; layer 1 shared in no step."""
    layers = {0: MapLayer("output 3.0", "32 pixels a token"), 1: MapLayer("output 6.0", "16 pixels a token")}
    found = AttentionMap(("1 Bob", "2 Bob"), ("bank: Bob 1",), layers, (9.0, 4.0), {0})
    found.add(9.0, 0, 0, (0, 1), torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.7, 0.2]]))
    found.add(4.0, 0, 0, (1,), torch.tensor([[0.5, 0.5]]))
    return found


def test_layers_and_steps_that_share_nothing_count_as_the_frame_itself():
    found = small_map()
    expected = torch.tensor([[0.9, 0.1, 0.0], [0.025, 0.8, 0.175]], dtype=torch.double)
    assert torch.allclose(found.shares(0), expected)
    assert found.shares(1).tolist() == torch.eye(2, 3).tolist()
    assert torch.allclose(found.shares(0, steps=[4.0], layers=[0]), torch.tensor([[1, 0, 0], [0, 0.5, 0.5]]).double())
    assert torch.allclose(found.borrowed(0), torch.tensor([[0.35, 0.25], [0.0, 0.0]], dtype=torch.double))


def test_several_calls_of_a_step_are_averaged():
    found = small_map()
    found.add(9.0, 0, 0, (0, 1), torch.tensor([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0]]))
    assert torch.allclose(
        found.shares(0, [0], [9.0]), torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.7, 0.1]]).double(), atol=1e-7
    )


def test_a_continued_map_leaves_the_first_as_it_was():
    found = small_map()
    before = found.shares(0).clone()
    longer = found.continued([4.0, 1.0])
    longer.add(4.0, 0, 0, (0, 1), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert longer.steps == (9.0, 4.0, 1.0)
    assert torch.equal(found.shares(0), before)


def test_the_table_holds_every_matrix_in_percent():
    lines = map_report.in_words(small_map(), 0).split("\n")
    whole = lines.index("The whole run")
    assert lines[whole + 1].split("\t") == ["frame", "1 Bob", "2 Bob", "bank: Bob 1", "borrowed"]
    assert lines[whole + 2].split("\t") == ["1 Bob", "90.0", "10.0", "0.0", "10.0"]
    assert lines[whole + 3].split("\t") == ["2 Bob", "2.5", "80.0", "17.5", "20.0"]
    titles = [line for line in lines if line.startswith(("Layers", "Steps"))]
    assert titles == ["Layers: 32 pixels a token", "Layers: 16 pixels a token", "Steps: 1", "Steps: 2"]
    assert lines[lines.index("Steps: 2") + 3].split("\t")[3] == "25.0"
    assert [line.split("\t") for line in lines[-3:]] == [
        ["layer", "1", "2"], ["output 3.0", "35.0", "25.0"], ["output 6.0", "0.0", "0.0"]
    ]  # fmt: skip


def test_names():
    assert [frame_name(0, None), frame_name(1, A | {"Bob"}), frame_name(2, NOBODY), frame_name(3, {""})] == [
        "1", "2 A and Bob", "3 [NC]", "4"
    ]  # fmt: skip
    assert bank_names([{"Bob"}, {"Bob"}, {"Al", "Bob"}, {""}, {""}]) == (
        "bank: Bob 1", "bank: Bob 2", "bank: Al and Bob 1", "bank: 1", "bank: 2"
    )  # fmt: skip


def random_map(frames, stored=0, layers=36, steps=30):
    names = tuple(f"{number} {'Ptolemy the Great of Alexandria' if number % 2 else '小明'}" for number in range(frames))
    found = AttentionMap(
        names, bank_names([{"Bob"}] * stored), {i: MapLayer(f"output 3.{i}", "") for i in range(layers)},
        tuple(range(steps, 0, -1)), {0},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for step in found.steps[1:]:
        for layer in found.layers:
            shares = torch.rand(frames, frames + stored, generator=generator) + 4 * torch.eye(frames, frames + stored)
            found.add(step, layer, 0, range(frames), shares / shares.sum(1, keepdim=True))
    return found


@pytest.mark.parametrize(("frames", "stored", "layers", "steps"), [(2, 0, 1, 1), (4, 2, 9, 20), (40, 6, 36, 50)])
def test_nothing_in_the_image_touches_its_border(frames, stored, layers, steps):
    """So no text is cut."""
    image = map_chart.draw(random_map(frames, stored, layers, steps), 0)[0]
    assert image.ndim == 3 and 0 <= image.min() and image.max() == 1
    for edge in (image[:6], image[-6:], image[:, :6], image[:, -6:]):
        assert edge.min() == 1
    assert max(image.shape[:2]) < 3000


def test_cells_are_dark_where_much_is_borrowed():
    found = AttentionMap(("1", "2", "3"), (), {0: MapLayer("", "")}, (1.0,), {0})
    found.add(1.0, 0, 0, range(3), torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]]))
    most, some, nothing = (map_chart.color_of(share, 0.4) for share in (0.4, 0.1, 0.0))
    assert sum(most) < sum(some) < sum(nothing) == 3 * 255
    pixels = (255 * map_chart.draw(found, 0)[0]).round().int().flatten(0, 1)
    for color, least in ((most, 1500), (some, 1500), (map_chart.ITSELF, 3 * 1500)):
        assert (pixels == torch.tensor(color)).all(1).sum() > least
