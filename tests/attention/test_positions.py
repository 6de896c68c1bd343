"""Positions of shared tokens against rotations by complex numbers in float64, and against the host's own RoPE."""

import pytest
import torch
from harness import brute
from storyreel.core.attention.extended import extended_attention
from storyreel.core.attention.positions import DIMMED_FAST, POSITIONS, Rope, movement
from storyreel.core.attention.sharing import Group

INTERLEAVED = Rope((4, 6, 6), (100.0, 100.0, 100.0), reference=10.0)
SPLIT = Rope((4, 6, 6), (300.0, 20.0, 50.0), interleaved=False, reference=1.0)
WIDTH = 5


def moved_keys(keys, rope, position, width=WIDTH):
    move = movement(rope, position, width)
    return keys if move is None else move(keys)


def numbers(keys, rope):
    """Keys [..., d] as complex numbers [..., d/2]."""
    keys = keys.double()
    if rope.interleaved:
        return torch.complex(keys[..., 0::2], keys[..., 1::2])
    half = keys.shape[-1] // 2
    return torch.complex(keys[..., :half], keys[..., half:])


def channels(values, rope):
    if rope.interleaved:
        return torch.stack((values.real, values.imag), -1).flatten(-2)
    return torch.cat((values.real, values.imag), -1)


def rotated(keys, rope, position):
    """The formula: every pair of an axis times exp(i position w) with w = theta^(-2 i / channels)."""
    factors = []
    for size, theta, place in zip(rope.channels, rope.thetas, position, strict=True):
        factors += [torch.polar(torch.ones(()).double(), torch.tensor(place * theta ** (-2 * i / size)).double())
                    for i in range(size // 2)]  # fmt: skip
    return channels(numbers(keys, rope) * torch.stack(factors), rope)


def expected(keys, rope, position):
    if position == "same":
        return keys.double()
    if position == "beside":
        return rotated(keys, rope, (0, 0, WIDTH))
    if position == "reference":
        return rotated(keys, rope, (rope.reference, 0, 0))
    scaled = [DIMMED_FAST + (1 - DIMMED_FAST) * i / (size // 2 - 1) for size in rope.channels for i in range(size // 2)]
    return channels(numbers(keys, rope) * torch.tensor(scaled).double(), rope)


@pytest.mark.parametrize("rope", [INTERLEAVED, SPLIT], ids=["interleaved", "split halves"])
@pytest.mark.parametrize("position", POSITIONS)
def test_keys_move_as_the_formula_says(rope, position):
    keys = torch.randn(2, 7, 3, 16, generator=torch.Generator().manual_seed(0))
    moved = moved_keys(keys, rope, position)
    torch.testing.assert_close(moved.double(), expected(keys, rope, position), rtol=0, atol=1e-6)


def test_a_moved_key_is_the_key_that_the_host_rotates_at_that_place(host):
    """R(s) R(p) k = R(p + s) k with the host's own rotation, for a shift of the width and for one on the first axis."""
    from comfy.ldm.flux.layers import EmbedND
    from comfy.ldm.flux.math import apply_rope1

    embed = EmbedND(16, 100, [4, 6, 6])
    keys = torch.randn(1, 3, 6, 16, generator=torch.Generator().manual_seed(1))
    places = torch.tensor([[0, y, x] for y in range(2) for x in range(3)])[None].float()
    for position, shift in (("beside", (0, 0, 3)), ("reference", (10, 0, 0))):
        there = apply_rope1(keys, embed(places + torch.tensor(shift)))
        moved = moved_keys(apply_rope1(keys, embed(places)), INTERLEAVED, position, 3)
        torch.testing.assert_close(moved, there, rtol=0, atol=2e-6)


def test_keys_keep_their_number_format():
    keys = torch.randn(1, 2, 1, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    moved = moved_keys(keys, INTERLEAVED, "beside")
    assert moved.dtype == torch.bfloat16
    exact = expected(keys, INTERLEAVED, "beside")
    assert (moved.double() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_a_network_without_references_is_refused():
    with pytest.raises(ValueError, match="no editing model"):
        movement(Rope((4, 6, 6), (100.0,) * 3), "reference", WIDTH)


@pytest.mark.parametrize("limit", [1 << 20, 1 << 10, 1 << 6])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("position", POSITIONS)
def test_only_shared_tokens_of_others_move(position, strength, limit):
    """Attention against float64: own tokens stay where they are, even those that were drawn for the others."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 3, 6, 2, 16, generator=generator)
    samples = [torch.tensor(index) for index in ([0, 2, 5], [1, 2], [3])]
    group = Group((0, 1, 2), dict.fromkeys(range(3), 1.0), 0, "rest")
    shared = None if position == "same" else (moved_keys(k, INTERLEAVED, position), v)
    ours = extended_attention(q, k, v, [group], [samples], shared=shared, strength=strength, limit=limit)

    moved = expected(k, INTERLEAVED, position)
    for row in range(3):
        others = [j for j in range(3) if j != row]
        keys = torch.cat([k[row].double(), *(moved[j, samples[j]] for j in others)])
        values = torch.cat([v[row], *(v[j, samples[j]] for j in others)])
        counts = torch.full((1, len(keys)), strength)
        counts[0, :6] = 1
        reference = brute.attention(q[row].flatten(1), keys.flatten(1)[None], values.flatten(1)[None], 2, counts)
        torch.testing.assert_close(ours[row].flatten(1).double(), reference, rtol=0, atol=2e-6)


def test_own_tokens_that_are_left_out_are_never_read():
    """Padding of a text: what stands there changes nothing, with and without shared tokens."""
    generator = torch.Generator().manual_seed(4)
    q, k, v = torch.randn(3, 2, 6, 2, 16, generator=generator)
    own = [torch.tensor([0, 1, 3, 4, 5]), torch.arange(6)]
    samples = [torch.tensor([3, 4]), torch.tensor([5])]
    alone = Group((), {0: 1.0, 1: 1.0}, 0, "all")
    mutual = Group((0, 1), {0: 1.0, 1: 1.0}, 0, "rest")
    for group, sample in ((alone, []), (mutual, samples)):
        before = extended_attention(q, k, v, [group], [sample], own=own)
        filled_k, filled_v = k.clone(), v.clone()
        filled_k[0, 2] = 7.0
        filled_v[0, 2] = 7.0
        assert torch.equal(before, extended_attention(q, filled_k, filled_v, [group], [sample], own=own))
        keys = [k[0, own[0]], *([] if not sample else [k[1, samples[1]]])]
        values = [v[0, own[0]], *([] if not sample else [v[1, samples[1]]])]
        keys, values = torch.cat(keys).flatten(1)[None], torch.cat(values).flatten(1)[None]
        reference = brute.attention(q[0].flatten(1), keys, values, 2, torch.ones(1, keys.shape[1]))
        torch.testing.assert_close(before[0].flatten(1).double(), reference, rtol=0, atol=2e-6)
