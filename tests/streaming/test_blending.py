"""Randomized blending: starts of chunks, offsets of their seams, and the blended frames."""

import pytest
import torch
from storyreel.core.diffusion import blending

LENGTH, OVERLAP = 8, 3


@pytest.mark.parametrize("frames", range(1, 40))
def test_chunks_cover_a_clip_of_any_length(frames):
    starts = blending.chunk_starts(frames, LENGTH, OVERLAP)
    assert starts[0] == 0 and starts == sorted(set(starts))
    ends = [min(start + LENGTH, frames) for start in starts]
    assert ends[-1] == frames
    shared = [end - start for end, start in zip(ends, starts[1:], strict=False)]
    assert all(number == OVERLAP for number in shared[:-1]) and all(OVERLAP <= number < LENGTH for number in shared)


def test_the_last_chunk_moves_back_where_the_length_does_not_divide():
    assert blending.chunk_starts(18, LENGTH, OVERLAP) == [0, 5, 10]
    assert blending.chunk_starts(19, LENGTH, OVERLAP) == [0, 5, 10, 11]
    draws = [blending.draw_offsets([0, 5, 10, 11], LENGTH, seed, 1.0) for seed in range(300)]
    assert {offsets[3] for offsets in draws} == set(range(7)) and {offsets[2] for offsets in draws} == set(range(3))


@pytest.mark.parametrize("overlap", [0, 8, 9])
def test_chunks_that_do_not_overlap_are_refused(overlap):
    with pytest.raises(ValueError, match=f"chunks of 8 frames overlap by {overlap}; 1 to 7 is expected"):
        blending.chunk_starts(30, LENGTH, overlap)


def test_offsets_depend_on_seed_level_and_chunk_alone():
    starts = blending.chunk_starts(200, LENGTH, OVERLAP)
    first = blending.draw_offsets(starts, LENGTH, 5, 0.7)
    torch.rand(7)  # the global generator may be in any state
    assert blending.draw_offsets(starts, LENGTH, 5, torch.tensor(0.7, dtype=torch.float64)) == first
    assert blending.draw_offsets(starts[:9], LENGTH, 5, 0.7) == first[:9]
    assert blending.draw_offsets(starts, LENGTH, 6, 0.7) != first
    assert blending.draw_offsets(starts, LENGTH, 5, 0.71) != first


@pytest.mark.parametrize("dim", [0, 2])
def test_every_frame_comes_from_the_last_chunk_that_has_begun(dim):
    starts = blending.chunk_starts(19, LENGTH, OVERLAP)
    offsets = blending.draw_offsets(starts, LENGTH, 1, 2.0)
    shape = [2, 3, 4, 5]
    shape[dim] = LENGTH
    chunks = [torch.full(shape, float(number)) for number in range(len(starts))]
    clip = blending.blend(chunks, starts, offsets, dim).movedim(dim, 0)
    begun = [start + offset for start, offset in zip(starts, offsets, strict=True)]
    expected = [max(number for number, frame in enumerate(begun) if frame <= place) for place in range(19)]
    assert [frame.unique().tolist() for frame in clip] == [[float(number)] for number in expected]


def test_chunks_that_agree_leave_a_clip_as_it_is():
    clip = torch.randn(1, 4, 23, 2, 2, generator=torch.Generator().manual_seed(0))
    starts = blending.chunk_starts(23, LENGTH, OVERLAP)
    chunks = [clip[:, :, start : start + LENGTH] for start in starts]
    for sigma in (0.1, 1.0, 10.0):
        assert torch.equal(blending.blend(chunks, starts, blending.draw_offsets(starts, LENGTH, 0, sigma)), clip)
