"""The chain of chunks, and measures of the motion in a clip."""

import math

import pytest
import torch
from storyreel.core.diffusion.autoregression import extend_by_chunks
from storyreel.core.metrics import reductions

OVERLAP = 3


def make(number: int, before: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.cat([before, before.mean(0, keepdim=True) + anchor + torch.rand(4, 2, 2, generator=generator)])


def test_an_interrupted_chain_resumes_unchanged():
    clip = torch.rand(8, 2, 2, generator=torch.Generator().manual_seed(0))
    unbroken = list(extend_by_chunks(clip, clip[:1], OVERLAP, range(1, 6), make))
    assert [len(new) for new in unbroken] == [4] * 5
    kept = unbroken[:2]
    so_far = torch.cat([clip, *kept])[-OVERLAP:]
    resumed = [*kept, *extend_by_chunks(so_far, clip[:1], OVERLAP, range(3, 6), make)]
    assert all(torch.equal(*pair) for pair in zip(unbroken, resumed, strict=True))


def test_chunks_are_computed_one_at_a_time():
    computed = []
    chain = extend_by_chunks(
        torch.zeros(OVERLAP, 2, 2),
        torch.zeros(1, 2, 2),
        OVERLAP,
        range(9),
        lambda *arguments: computed.append(1) or make(*arguments),
    )
    next(chain)
    assert len(computed) == 1


def test_what_cannot_be_extended_is_refused():
    anchor = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="The clip has 2 frames; overlap 3 needs at least 3"):
        next(extend_by_chunks(torch.zeros(2, 2, 2), anchor, OVERLAP, range(1), make))
    with pytest.raises(ValueError, match="A chunk of 3 frames has no new frames at overlap 3"):
        next(extend_by_chunks(torch.zeros(3, 2, 2), anchor, OVERLAP, range(1), lambda number, before, anchor: before))


def panning(frames: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(a clip of an image that moves to the right, its flow)"""
    picture = torch.rand(3, 12, 40, generator=torch.Generator().manual_seed(1)) * 255
    clip = torch.stack([picture.roll(step * number, dims=-1) for number in range(frames)])
    return clip, torch.tensor([float(step), 0.0])[None, :, None, None].expand(frames - 1, 2, 12, 40)


def test_motion_that_explains_every_pixel_leaves_no_error():
    clip, flow = panning(5, 3)
    errors, motion = reductions.warp_errors(clip, flow), reductions.motions(flow)
    assert torch.equal(errors, torch.zeros(4)) and torch.equal(motion, torch.full((4,), 3.0))
    assert (
        reductions.mawe_published(errors, motion)
        == reductions.mawe_paper(errors, reductions.squared_motions(flow))
        == 0
    )
    assert reductions.flow_deviation(motion) == 0
    pushed, filled = reductions.push_forward(clip[:1], flow[:1])
    assert not filled[..., :3].any() and filled[..., 3:].all() and not pushed[..., :3].any()


def test_the_two_definitions_differ_as_documented():
    clip, flow = panning(5, 3)
    errors = reductions.warp_errors(clip, flow + 1)
    error = errors.mean().item()
    assert error > 0
    assert math.isclose(reductions.mawe_published(errors, reductions.motions(flow)), error / (9.5 * 3), rel_tol=1e-5)
    assert math.isclose(reductions.mawe_paper(errors, reductions.squared_motions(flow)), error / 9, rel_tol=1e-5)


def test_a_pair_that_stands_still():
    clip, flow = panning(5, 3)
    flow = flow.clone()
    flow[2] = 0
    errors, motion = reductions.warp_errors(clip, flow), reductions.motions(flow)
    assert errors[2] > 0 and reductions.mawe_published(errors, motion) == 0  # the others are explained
    assert math.isclose(reductions.flow_deviation(motion), torch.tensor([3.0, 3.0, 0.0, 3.0]).std(correction=0).item())
    assert math.isnan(reductions.mawe_published(errors * 0, motion * 0))
