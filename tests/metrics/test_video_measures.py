"""What is measured of a video: known truths put into real clips and found again, and against brute force."""

import math
import weakref

import numpy as np
import pytest
import torch
from harness import clips
from storyreel.core.metrics.borders import Change, Chunks, jump_ratio
from storyreel.core.metrics.cuts import Cuts
from storyreel.core.metrics.drift import COLORS, QUALITIES, Drift
from storyreel.core.metrics.fidelity import Fidelity, psnr, ssim
from storyreel.core.metrics.flow import dis_flow, raft_flow
from storyreel.core.metrics.likeness import Likeness, consistency, likeness_to
from storyreel.core.metrics.metric import evaluate
from storyreel.core.metrics.motion import Motion
from storyreel.core.metrics.slices import Slice
from storyreel.core.video.images import fit

SIDE = 256  # of the squares for the flow: an eighth of the published work


def seen(metric, frames):
    evaluate(frames, [metric])
    return metric


@pytest.fixture(scope="module")
def carphone():
    return clips.frames(clips.CARPHONE, 80)


@pytest.fixture(scope="module")
def photo(carphone):
    """A still of 40 frames of a real picture."""
    return carphone[:1].expand(40, -1, -1, -1)


@pytest.fixture(scope="module")
def pan():
    """pan(steps): a window of 240 x 240 that goes that many pixels further to the right from frame to frame."""
    picture = fit(clips.frames(clips.BUNNY, 1), 640, 360)[0]

    def pan(steps: list[int]) -> torch.Tensor:
        places = [0, *np.cumsum(steps)]
        return torch.stack([picture[60:300, place : place + 240] for place in places])

    return pan


def test_a_cut_is_found_where_it_was_made(carphone):
    other = fit(clips.frames(clips.BUNNY, 30), 176, 144)
    found = seen(Cuts(), torch.cat([carphone[:40], other])).found
    assert len(found) == 1 and abs(found[0] - 40) <= 1
    assert seen(Cuts(), carphone).found == []


def test_cuts_are_those_of_pyscenedetect():
    """Its own reader and scene manager on the same file."""
    import scenedetect

    scenes = scenedetect.detect(str(clips.path_of(clips.BIKES)), scenedetect.AdaptiveDetector())
    expected = [int(start) for start, _ in scenes[1:]]
    assert len(expected) == 5
    assert seen(Cuts(), clips.frames(clips.BIKES)).results()["at"] == expected


def test_a_repeated_frame_has_no_flow_at_exactly_that_pair():
    frames = clips.frames(clips.BIKES, 12)
    frames[7] = frames[6]
    motion = seen(Motion(dis_flow(), "DIS", SIDE), frames).per_frame["motion"]
    assert motion[0] is None
    assert [number for number, value in enumerate(motion) if value == 0] == [7]
    assert seen(Change(), frames).per_frame["change"][7] == 0


def test_flow_of_a_pan(pan):
    """The content goes left by 3 pixels of 240 a frame; where one can see it come, that explains every pixel."""
    figures = seen(Motion(dis_flow(), "DIS", 240), pan([3] * 8)).results()
    assert figures["motion"] == pytest.approx(3, rel=0.05)
    assert figures["flow_deviation"] < 0.1
    flicker = pan([3] * 8)
    flicker[::2] *= 0.9
    assert seen(Motion(dis_flow(), "DIS", 240), flicker).results()["mawe_code"] > 5 * figures["mawe_code"]


def test_a_jerk_where_chunks_meet_is_seen_there(pan):
    steps = [3] * 23
    steps[7] = steps[15] = 12  # on the way to frames 8 and 16
    frames, chunks = pan(steps), Chunks(8, 0)
    assert chunks.borders(24) == [8, 16]
    motion = seen(Motion(dis_flow(), "DIS", 240), frames)
    assert jump_ratio(motion.per_frame["motion"], chunks.borders(24)) == pytest.approx(4, rel=0.1)
    assert motion.results()["flow_deviation"] > 1
    change = seen(Change(), frames).per_frame["change"]
    assert jump_ratio(change, chunks.borders(24)) > 1.5 > 1 > jump_ratio(change, Chunks(9, 0).borders(24))


def test_borders_of_chunks_that_overlap():
    assert Chunks(16, 8).borders(40) == [16, 24, 32]  # StreamingT2V: 8 n + 8 frames
    assert Chunks(25, 7).borders(61) == [25, 43]  # StreamingSVD
    assert Chunks(16, 8).borders(16) == []
    assert Chunks(16, 8, first=100).borders(120) == [100, 108, 116]  # a clip of 100 frames that was extended
    with pytest.raises(ValueError, match="overlap is 16: a chunk of 16 frames has nothing new"):
        Chunks(16, 16)


def test_jumps_by_brute_force():
    series = [None, 1.0, 2.0, 9.0, 3.0, 7.0]
    assert jump_ratio(series, [3, 5]) == pytest.approx(8 / 2)
    assert jump_ratio([None, 0.0, 5.0], [2]) is None


def wander(frames: torch.Tensor, channel: int, percent: float) -> torch.Tensor:
    """A color goes by that much of the full range in 10 frames, with the rounding of a file."""
    frames = frames.clone() * 0.6 + 0.2  # room above and below
    frames[..., channel] += torch.arange(len(frames))[:, None, None] * percent / 1000
    return (frames * 255).round() / 255


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("percent", [1.0, -1.0])
def test_a_color_drift_is_recovered(photo, carphone, channel, percent):
    """In a still as it is; in a clip whose colors change by themselves, on top of that."""
    still = seen(Drift(wander(photo, channel, 0)[0]), wander(photo, channel, percent)).results()
    others = [name for name in COLORS if name != COLORS[channel]]
    assert still[COLORS[channel]]["in_10_frames"] == pytest.approx(percent, rel=0.1)
    assert still[COLORS[channel]]["at_the_end"] == pytest.approx(percent * 3.55, rel=0.1)  # of frames 32 to 39
    assert [still[name]["in_10_frames"] for name in others] == pytest.approx([0, 0], abs=0.01)

    plain, moved = wander(carphone, channel, 0), wander(carphone, channel, percent)
    slopes = [seen(Drift(plain[0]), clip).results()[COLORS[channel]]["in_10_frames"] for clip in (plain, moved)]
    assert slopes[1] - slopes[0] == pytest.approx(percent, rel=0.1)


def test_contrast_does_not_count_as_sharpness(photo):
    grow = 1 + 0.01 * torch.arange(40.0)[:, None, None, None] / 10
    frames = (photo - 0.5) * 0.5 * grow + 0.5
    figures = seen(Drift(frames[0]), frames).results()
    assert figures["contrast"]["in_10_frames"] == pytest.approx(1, rel=1e-3)
    assert figures["sharpness"]["in_10_frames"] == pytest.approx(0, abs=1e-3)


def test_blur_counts_as_sharpness(photo):
    frames = photo.clone()
    for number in range(1, 40):  # each a little softer than the one before
        frames[number] = 0.9 * frames[number - 1] + 0.1 * frames[number - 1].roll(1, dims=1)
    figures = seen(Drift(photo[0]), frames).results()
    assert figures["sharpness"]["in_10_frames"] < -5
    assert figures["brightness"]["in_10_frames"] == pytest.approx(0, abs=0.01)


def test_a_still_has_no_motion_no_drift_no_cut_and_no_error(photo):
    motion = seen(Motion(dis_flow(), "DIS", SIDE), photo[:6]).results()
    assert motion["motion"] == motion["flow_deviation"] == 0
    assert motion["mawe_code"] is None and motion["mawe_paper"] is None  # 0 / 0
    assert seen(Cuts(), photo).found == []
    assert seen(Change(), photo).results()["mean"] == 0
    drift = seen(Drift(photo[0]), photo).results()
    assert [value for part in drift.values() for value in part.values()] == pytest.approx([0] * 12, abs=1e-4)
    assert jump_ratio(seen(Change(), photo).per_frame["change"], [16, 24]) is None


def test_a_clip_that_lies_elsewhere_in_the_picture_drifts_alike(carphone):
    frames = carphone[:20]
    shifted = frames.roll((5, 11), dims=(1, 2))
    plain, moved = (seen(Drift(clip[0]), clip).per_frame for clip in (frames, shifted))
    for name in (*COLORS, "brightness", "contrast"):
        assert moved[name] == pytest.approx(plain[name], abs=1e-3)
    assert seen(Change(), shifted).per_frame["change"][1:] == pytest.approx(
        seen(Change(), frames).per_frame["change"][1:]
    )


def test_what_an_anchor_has_not_is_not_compared(photo):
    figures = seen(Drift(torch.zeros_like(photo[0])), photo[:4]).results()
    assert [figures[name] for name in QUALITIES] == [None] * 3
    assert figures["red"]["at_the_end"] == pytest.approx(100 * photo[0, ..., 0].mean().item(), rel=1e-4)


def test_psnr_and_ssim_by_brute_force():
    a, b = np.random.default_rng(0).random((2, 14, 17, 3))
    assert psnr(torch.full((4, 4, 3), 0.5), torch.full((4, 4, 3), 0.6)) == pytest.approx(20, abs=1e-5)
    assert psnr(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(-10 * math.log10(((a - b) ** 2).mean()))

    weights = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(weights, weights) / weights.sum() ** 2
    grey = [picture @ np.array([0.299, 0.587, 0.114]) for picture in (a, b)]
    places = []
    for row in range(4):
        for column in range(7):
            x, y = (picture[row : row + 11, column : column + 11] for picture in grey)
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            top = (2 * mx * my + 0.0001) * (2 * both + 0.0009)
            places.append(top / ((mx**2 + my**2 + 0.0001) * (vx + vy + 0.0009)))
    assert ssim(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(np.mean(places), abs=1e-7)
    assert ssim(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(1)


def test_a_poor_copy_is_told_from_a_good_one(carphone):
    few = carphone[:6]
    good = (few * 63).round() / 63
    poor = clips.frames(clips.CARPHONE_BLURRED, 6)
    better, worse = (seen(Fidelity(iter(few)), clip).results() for clip in (good, poor))
    assert better["psnr"] > worse["psnr"] + 6 and better["ssim"] > worse["ssim"] + 0.1
    same = seen(Fidelity(iter(few)), few).results()
    assert same == {"psnr": None, "ssim": pytest.approx(1), "equal_frames": 6}


def test_a_reference_that_does_not_fit_is_refused(carphone):
    with pytest.raises(ValueError, match="The reference ends after 3 frames, and the video goes on"):
        seen(Fidelity(iter(carphone[:3])), carphone[:5])
    with pytest.raises(ValueError, match="The video ends after 3 frames, and the reference goes on"):
        seen(Fidelity(iter(carphone[:5])), carphone[:3]).results()
    with pytest.raises(ValueError, match="The reference is 100 x 144, and the video is 176 x 144"):
        seen(Fidelity(iter(carphone[:5, :, :100])), carphone[:5])
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        seen(Fidelity(iter(carphone[:5, :10])), carphone[:5, :10])


def test_likeness_by_brute_force(carphone):
    """Of 19 frames, which is no multiple of what an encoder is given at once."""
    frames = carphone[:19]
    project = torch.randn(144 * 176 * 3, 6, generator=torch.Generator().manual_seed(0))

    def embed(images):
        return (images - 0.5).flatten(1) @ project

    anchor, prompt = embed(carphone[40:41])[0], torch.randn(6, generator=torch.Generator().manual_seed(1))
    scores = [consistency(), likeness_to("anchor_likeness", anchor), likeness_to("prompt_likeness", prompt)]
    found = seen(Likeness(embed, "a projection", scores), frames)
    figures, rows = found.results(), embed(frames).double().numpy()

    def cosine(a, b):
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    assert figures["consistency"] == pytest.approx(np.mean([cosine(*pair) for pair in zip(rows, rows[1:])]), abs=1e-5)  # noqa: B905
    for name, other in (("anchor_likeness", anchor), ("prompt_likeness", prompt)):
        assert found.per_frame[name] == pytest.approx([cosine(row, other.double().numpy()) for row in rows], abs=1e-5)
    assert len(found.per_frame["consistency"]) == 19 and found.per_frame["consistency"][0] is None
    assert seen(Likeness(embed, "a projection", scores[:2]), frames).results()["prompt_likeness"] is None


def test_a_slice_shows_one_row_of_every_frame(carphone):
    for height, row in ((0.0, 0), (0.5, 72), (1.0, 143)):
        assert torch.equal(seen(Slice(height), carphone[:9]).image()[0], carphone[:9, row])


def test_raft_gives_what_torchvision_gives(carphone):
    """Random weights, at the smallest size that it takes."""
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network = raft_small().eval()
    first, second = (fit(carphone[:2], 128, 128).movedim(-1, 1) * 255).round()
    with torch.no_grad():
        expected = network(first[None] / 127.5 - 1, second[None] / 127.5 - 1)[-1][0]
    assert torch.equal(raft_flow(network)(first, second), expected)
    assert seen(Motion(raft_flow(network), "RAFT", 128), carphone[:3]).results()["motion"] > 0


def test_a_long_video_is_never_held(carphone):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def frames():
        nonlocal most
        for number in range(60):
            frame = carphone[number].clone()
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    def embed(images):
        return images.mean((1, 2))

    same = (frame.clone() for frame in carphone[:60])
    first = carphone[0].clone()
    metrics = [Change(), Drift(first), Slice(), Cuts(), Motion(dis_flow(), "DIS", 64), Fidelity(same)]
    assert evaluate(
        frames(), [*metrics, Likeness(embed, "means", [consistency(), likeness_to("anchor_likeness", torch.ones(3))])]
    ) == (60, 144, 176)
    assert most <= 10


def test_frames_that_cannot_be_measured_are_refused():
    with pytest.raises(ValueError, match="has 1 frame; at least 2"):
        evaluate(torch.zeros(1, 8, 8, 3), [])
    with pytest.raises(ValueError, match="Frame 1 is 9 x 7, and those before it are 8 x 8"):
        evaluate([torch.zeros(8, 8, 3), torch.zeros(7, 9, 3)], [])
