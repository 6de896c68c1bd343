"""Where a character stands: attention to its words by brute force, the threshold, and regions that do not overlap."""

import pytest
import torch
from storyreel.core.attention.localization import map_level, otsu, separate, smooth, word_attention
from storyreel.core.attention.words import positions_of


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("limit", [64 << 20, 4 * 3 * 77 * 5])
def test_the_attention_to_words_equals_the_brute_force(limit):
    """The small limit takes five places at a time."""
    heads, q, k = 3, random(64, 24, seed=1) * 3, random(77, 24, seed=2)
    words = [torch.tensor([2, 3, 4]), torch.tensor([9]), torch.tensor([2, 70])]
    found = word_attention(q, k, heads, words, limit)
    for number, positions in enumerate(words):
        for place in range(64):
            shares = []
            for head in range(heads):
                own = slice(head * 8, head * 8 + 8)
                weights = [(q[place, own].double() @ key[own].double() / 8**0.5).exp() for key in k]
                shares += [weights[p] / sum(weights) for p in positions.tolist()]
            assert abs(found[number, place] - sum(shares) / len(shares)) < 1e-5


def between(values, threshold):
    """The variance between the two classes of a threshold, from its definition."""
    low, high = values[values <= threshold], values[values > threshold]
    if not len(low) or not len(high):
        return 0.0
    mean = values.mean()
    parts = ((len(part) / len(values)) * (part.mean() - mean) ** 2 for part in (low, high))
    return float(sum(parts))


@pytest.mark.parametrize(
    "values",
    [
        random(40),
        random(2),
        torch.cat([random(30) * 0.1, random(5, seed=1) * 0.1 + 2]),
        random(50).mul(2).round(),  # many equal values
        random(64).exp(),
    ],
)
def test_otsu_finds_the_best_of_all_thresholds(values):
    values = values.double()
    best = max(between(values, threshold) for threshold in values.tolist())
    assert between(values, otsu(values)) == pytest.approx(best)


@pytest.mark.parametrize("values", [torch.zeros(9), torch.full((4,), 0.1), torch.ones(1)])
def test_equal_values_have_no_threshold(values):
    assert otsu(values) is None


def blob(x, y, side=16, width=3.0):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))


@pytest.mark.parametrize("size", [(16, 16), (8, 8), (32, 32), (9, 21)])
def test_regions_are_where_the_maps_are_high_and_do_not_overlap(size):
    """The second map is a tenth as high, and both overlap in the middle."""
    first, second = blob(5, 8), blob(10, 8) / 10 + 0.3
    a, b = separate(torch.stack([first, second]), *size)
    assert not (a & b).any() and a.any() and b.any()
    columns = torch.arange(size[0] * size[1]) % size[1] / size[1]
    assert columns[a].max() <= columns[b].max() and columns[a].mean() < 0.45 < 0.55 < columns[b].mean()
    assert a.view(size)[size[0] // 2, int(size[1] * 5 / 16)] and b.view(size)[size[0] // 2, int(size[1] * 10.5 / 16)]


def test_alone_a_region_is_all_above_the_threshold():
    one = blob(4, 4)
    (region,) = separate(one[None], 16, 16)
    one = smooth(one[None])[0]
    assert torch.equal(region, (one > otsu(one)).flatten())


def test_smoothing_is_a_mean_of_neighbors():
    values = random(2, 5, 6)
    smoothed = smooth(values)
    weights = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    assert torch.allclose(smoothed[1, 2, 3], (values[1, 1:4, 2:5] * weights).sum(), atol=1e-6)
    assert torch.allclose(smooth(torch.full((1, 4, 4), 0.3)), torch.full((1, 4, 4), 0.3))


def test_an_even_map_finds_nothing_and_takes_nothing_from_others():
    one = blob(4, 4)
    nothing, region = separate(torch.stack([torch.full((16, 16), 0.2), one]), 16, 16)
    assert nothing is None and torch.equal(region, separate(one[None], 16, 16)[0])


def test_the_coarsest_level_of_16_tokens_is_looked_at():
    assert map_level([(64, 64), (32, 32), (16, 16), (8, 8)]) == (16, 16)
    assert map_level([(64, 96), (32, 48)]) == (32, 48)
    assert map_level([(12, 20), (6, 10)]) == (12, 20)


def found(names, words, prompt):
    words = {name: text.split() for name, text in words.items()}
    return positions_of(names, words, list(enumerate(prompt.split(), 1)))


def test_words_are_found_wherever_they_stand():
    words = {"A": "a man", "B": "a man in a hat"}
    assert found(["A", "B"], words, "a man in a hat and a man") == {"B": (1, 2, 3, 4, 5), "A": (7, 8)}
    assert found(["A"], words, "a man , later a man") == {"A": (1, 2, 5, 6)}
    assert found(["A", "B"], words, "a woman") == {}


def test_equal_words_belong_to_their_characters_in_turn():
    words = {"A": "a hero", "B": "a hero"}
    assert found(["B", "A"], words, "a hero and a hero") == {"B": (1, 2), "A": (4, 5)}
