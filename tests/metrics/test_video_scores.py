"""Aesthetic score, re-identification, FVD and KVD: the arithmetic, by brute force."""

import numpy as np
import pytest
import torch
from harness import clips
from harness.encoders import aesthetic_predictor
from storyreel.core.metrics.aesthetics import HEADS, read_head
from storyreel.core.metrics.faces import Reidentification
from storyreel.core.metrics.fidelity import Fidelity
from storyreel.core.metrics.likeness import Likeness, aesthetic, likeness_to
from storyreel.core.metrics.metric import evaluate
from storyreel.core.metrics.video_sets import VideoSets, frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def carphone():
    return clips.frames(clips.CARPHONE, 70)


@pytest.fixture(scope="module")
def published():
    return aesthetic_predictor()


def rows(count: int, width: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


@torch.no_grad()
def test_heads_score_as_published(published):
    """Both, distinguished by their keys; embeddings count by their direction."""
    embeds = rows(5, 768, 1).float() * 20
    towards = embeds / embeds.norm(dim=-1, keepdim=True)
    found = read_head(published.state_dict())
    assert found.name.endswith("V2")
    assert torch.allclose(found(embeds), published["layers"](towards)[:, 0], atol=1e-6)

    linear = torch.nn.Linear(768, 1)
    found = read_head(linear.state_dict())
    assert found.name.endswith("V1") and len(HEADS) == 2
    assert torch.allclose(found(embeds), linear(towards)[:, 0], atol=1e-6)


def test_a_head_with_other_layers_is_none(published):
    """The one with rectifiers counts its layers otherwise; those of other encoders have another width."""
    weights = published.state_dict()
    assert read_head({key.replace("layers.2.", "layers.3."): weight for key, weight in weights.items()}) is None
    assert read_head(torch.nn.Linear(512, 1).state_dict()) is None
    assert read_head({key: weight for key, weight in weights.items() if key != "layers.7.bias"}) is None


def test_every_frame_has_a_score(carphone, published):
    """Of 19 frames, which is no multiple of what an encoder is given at once."""
    frames, head = carphone[:19], read_head(published.state_dict())
    project = torch.randn(27, 768, generator=torch.Generator().manual_seed(0))

    def embed(images):
        return images[:, :3, :3].flatten(1) @ project

    anchor = likeness_to("anchor_likeness", torch.ones(768))
    likeness = Likeness(embed, "a projection", [anchor, aesthetic(head)])
    evaluate(frames, [likeness])
    figures = likeness.results()
    assert likeness.per_frame["aesthetic"] == pytest.approx(head(embed(frames)).tolist(), abs=1e-5)
    assert figures["aesthetic"] == pytest.approx(head(embed(frames)).mean().item(), abs=1e-5)
    assert figures["aesthetic_by"] == head.name and figures["encoder"] == "a projection"
    plain = Likeness(embed, "a projection", [anchor])
    evaluate(frames, [plain])
    assert "aesthetic" not in plain.results() and "aesthetic" not in plain.per_frame


def test_reidentification_by_brute_force():
    """Frames of 2, 0, 1, 3 and 1 faces: only the last three follow on one that has a face."""
    faces = [rows(count, 4, seed) for seed, count in enumerate((2, 0, 1, 3, 1))]
    left = iter(faces)
    found = Reidentification(lambda frame: next(left), lambda faces: faces * 7, "brute force")
    evaluate(torch.zeros(5, 2, 2, 3), [found])

    def best(ones, others):
        return max(float(a @ b / (a.norm() * b.norm())) for a in ones for b in others)

    expected = [best(faces[2], faces[3]), best(faces[3], faces[4])]
    assert found.per_frame["face_likeness"][:3] == [None, None, None] and found.per_frame["faces"] == [2, 0, 1, 3, 1]
    assert found.per_frame["face_likeness"][3:] == pytest.approx(expected)
    figures = found.results()
    assert figures["reidentification"] == pytest.approx(50 * sum(expected))
    assert (figures["pairs"], figures["frames_with_faces"]) == (2, 4)


def test_without_faces_there_is_no_reidentification():
    found = Reidentification(lambda frame: torch.zeros(0), lambda faces: pytest.fail("nothing to embed"), "nobody")
    evaluate(torch.zeros(3, 2, 2, 3), [found])
    assert found.results() == {"by": "nobody", "reidentification": None, "pairs": 0, "frames_with_faces": 0}


def test_frechet_distance_of_known_gaussians():
    """Independent columns with known mean and deviation: |m - n|^2 + sum (s - t)^2, in closed form."""
    plain = rows(500, 6, 0)
    plain -= plain.mean(0)
    plain, _ = torch.linalg.qr(plain)
    plain = plain * 499**0.5  # the covariance is the identity, exactly
    means, spreads = rows(2, 6, 1), rows(2, 6, 2).abs()
    a, b = (plain * spread + mean for mean, spread in zip(means, spreads, strict=True))
    expected = (means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(("ours", "theirs", "width"), [(300, 200, 12), (9, 30, 40), (2, 2, 400)])
def test_frechet_distance_by_the_published_formula(ours, theirs, width):
    """With scipy's root of the product of both covariances; of fewer rows than columns that has no full rank."""
    from scipy.linalg import sqrtm

    a, b = rows(ours, width, 3) @ rows(width, width, 4) + 0.3, rows(theirs, width, 5, 0.5)
    left, right = (np.cov(x.numpy(), rowvar=False) for x in (a, b))
    product = left @ right
    if min(ours, theirs) > width:
        root = np.trace(sqrtm(product)).real
    else:
        root = np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(left) + np.trace(right) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_equal_sets_do_not_lie_apart():
    a = rows(7, 400, 6, 30)
    assert frechet_distance(a, a.clone()) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(a, a + 0.5) == pytest.approx(100)  # 400 columns, each by a half


def test_kernel_distance_by_naive_loops():
    a, b = rows(5, 3, 7), rows(4, 3, 8) + 0.5

    def kernel(u, v):
        return (float(u @ v) / 3 + 1) ** 3

    def within(x):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(u, v) for u in a for v in b) / 20
    assert kernel_distance(a, b) == pytest.approx(within(a) + within(b) - 2 * between, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """Of sets from one distribution the mean is 0, with some below it."""
    found = [kernel_distance(rows(6, 4, 2 * seed), rows(6, 4, 2 * seed + 1)) for seed in range(3000)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 4 * np.std(found) / 3000**0.5


def test_windows_are_16_frames_and_the_rest_is_left_out(carphone):
    """35 frames against 50; of each window the network gets [1, 3, 16, H, W] from -1 to 1."""
    shown = []

    def features(clip):
        shown.append(clip)
        return clip.mean((2, 3, 4)).float()

    ours, theirs = carphone[:35], carphone[20:70]
    found = VideoSets(features, iter(theirs), "means")
    evaluate(ours, [found])
    figures = found.results()
    parts = [clip[start : start + 16] for clip in (ours, theirs) for start in range(0, len(clip) - 15, 16)]
    assert len(shown) == len(parts) == 5 and figures["windows"] == [2, 3] and found.not_computed == {}
    assert all(torch.equal(clip, part.movedim(-1, 0)[None] * 2 - 1) for clip, part in zip(shown, parts, strict=True))
    means = torch.stack([(part * 2 - 1).mean((0, 1, 2)) for part in parts])
    assert figures["fvd"] == pytest.approx(frechet_distance(means[:2], means[2:]), abs=1e-6)
    assert figures["kvd"] == pytest.approx(kernel_distance(means[:2], means[2:]), abs=1e-6)


def test_too_few_windows_are_told(carphone):
    found = VideoSets(lambda clip: clip.mean((2, 3, 4)), iter(carphone[:40]), "means")
    evaluate(carphone[:31], [found])
    assert found.results() == {}
    (reason,) = found.not_computed.values()
    assert reason == "need 2 windows of 16 frames on either side: the video has 1, and the reference has 2."


@pytest.mark.parametrize(
    ("video", "reference", "why"),
    [
        (slice(0, 9), (slice(0, 5),), "The reference ends after 5 frames, and the video goes on."),
        (slice(0, 5), (slice(0, 9),), "The video ends after 5 frames, and the reference goes on."),
        (slice(0, 5), (slice(0, 5), slice(0, 100)), "The reference is 176 x 100, and the video is 176 x 144."),
    ],
)
def test_a_reference_for_other_measures_may_be_another_clip(carphone, video, reference, why):
    found = Fidelity(iter(carphone[reference]), strict=False)
    evaluate(carphone[video], [found])
    found.results()
    assert found.not_computed == {"PSNR, SSIM": why}
