"""Similarity of a story's images: the arithmetic against a brute force, and the node on a real host."""

import itertools
import math
import re

import pytest
import torch
from harness import tiny
from harness.encoders import image_encoder
from storyreel.core.metrics.similarity import character_similarity, text_similarity
from storyreel.core.story.script import read_script
from storyreel.core.story.styles import NO_STYLE, PLACE, Style

CHARACTERS = "[Bob] a man\n[Eve] a woman"
SCENES = "[Bob] at home\n[Bob] and [Eve] on the road\n[NC] a castle\n[Eve] sleeps\n[Bob] laughs"


def tell(characters: str = CHARACTERS, scenes: str = SCENES):
    return read_script(characters, scenes, NO_STYLE, "", {NO_STYLE: Style(NO_STYLE, PLACE)})[0]


def cosine(a, b) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))


def test_similarity_is_the_mean_cosine_over_pairs_of_a_characters_frames():
    story = tell()
    images, prompts = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    similarity = character_similarity(story, images)
    shown = {"Bob": (0, 1, 4), "Eve": (1, 3)}
    for name, frames in shown.items():
        pairs = [cosine(images[a], images[b]) for a, b in itertools.combinations(frames, 2)]
        assert similarity.characters[name] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    partners = {0: (1, 4), 1: (0, 3, 4), 3: (1,), 4: (0, 1)}
    for frame, others in partners.items():
        expected = sum(cosine(images[frame], images[other]) for other in others) / len(others)
        assert similarity.frames[frame] == pytest.approx(expected, abs=1e-6)
    assert similarity.frames[2] is None  # [NC]
    expected = [cosine(*pair) for pair in zip(images, prompts, strict=True)]
    similarity = text_similarity(story, images, prompts)
    assert similarity.frames == pytest.approx(expected, abs=1e-6)
    assert similarity.mean == pytest.approx(sum(expected) / 5, abs=1e-6)


def test_length_of_embeddings_does_not_matter():
    images = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    scaled = images * torch.tensor([1.0, 20, 0.1, 3, 7])[:, None]
    similarity = character_similarity(tell(), images)
    assert character_similarity(tell(), scaled).frames[0] == pytest.approx(similarity.frames[0], abs=1e-6)


def test_equal_pictures_are_wholly_alike():
    similarity = character_similarity(tell(), torch.ones(5, 7))
    assert similarity.characters == pytest.approx({"Bob": 1.0, "Eve": 1.0})


def test_other_numbers_of_frames_are_refused():
    with pytest.raises(ValueError, match="5 frames, and there are 4 images"):
        character_similarity(tell(), torch.ones(4, 7))
    with pytest.raises(ValueError, match="5 frames, and there are 6 prompts"):
        text_similarity(tell(), torch.ones(5, 7), torch.ones(6, 7))


@pytest.fixture
def vision(host):
    return image_encoder


@pytest.fixture
def story():
    return tell()


@pytest.fixture
def images():
    return torch.rand(5, 48, 64, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def sdxl(host):
    return tiny.sdxl_clip()


def measure(*inputs, **options):
    from storyreel.nodes.metrics import StoryReelMeasureStory

    return StoryReelMeasureStory.execute(*inputs, **options).result


def test_the_node_reports_what_was_measured(host, vision, sdxl, story, images):
    """Prompts are embedded by the tower that fits the image encoder: of SDXL's two, the one whose pooled output the
    host itself uses."""
    encoder = vision(1280)
    report, plot = measure(images, story, encoder, sdxl)
    pooled = torch.cat([sdxl.encode_from_tokens(sdxl.tokenize(p), return_pooled=True)[1] for p in story.prompts])
    embeds = encoder.encode_image(images)["image_embeds"].cpu()
    characters, texts = character_similarity(story, embeds), text_similarity(story, embeds, pooled.cpu())
    assert "width 32, 2 layers, patches of 16 pixels" in report
    assert re.findall(r"(Bob|Eve): (\S+)", report) == [(n, f"{v:.3f}") for n, v in characters.characters.items()]
    frames = re.findall(r"\d\. (\S+), (\S+)", report)
    shown = ["-" if value is None else f"{value:.3f}" for value in characters.frames]
    assert frames == list(zip(shown, [f"{value:.3f}" for value in texts.frames], strict=True))
    assert plot.ndim == 4 and plot.shape[0] == 1 and 0 <= plot.min() < plot.max() <= 1


def test_without_a_text_encoder_the_pictures_are_compared(vision, story, images):
    report, _ = measure(images, story, vision(1280))
    assert "Bob: " in report and "Text-image" not in report
    assert report.endswith("Not computed\n  text-image similarity: needs the text encoder at clip.")


def test_what_does_not_fit_is_said(host, tiny_checkpoint, vision, sdxl, story, images):
    with pytest.raises(ValueError, match="story has 5 frames, and there are 4 images"):
        measure(images[:4], story, vision(1280))
    with pytest.raises(ValueError, match="holds .*clip_g of width 1280.* have width 640: load the text encoder"):
        measure(images, story, vision(640), sdxl)
    sd15 = host.load_checkpoint(tiny_checkpoint("sd15"))[1]
    # the host leaves uninitialized memory there, which may hold anything
    sd15.cond_stage_model.clip_l.transformer.text_projection.weight.data.normal_()
    with pytest.raises(ValueError, match="clip_l was loaded from a file without its text projection.* with Load CLIP"):
        measure(images, story, vision(768), sd15)
    sdxl.patcher.attachments.clear()  # as a loader of another pack leaves it
    with pytest.raises(ValueError, match="clip_g was loaded by a node that does not show whether"):
        measure(images, story, vision(1280), sdxl)


def test_without_matplotlib_the_report_is_whole_and_the_picture_says_what_to_install(
    monkeypatch, vision, story, images, caplog
):
    import sys

    whole, chart = measure(images, story, vision(1280))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # what Python does for a module that is not there
    report, plot = measure(images, story, vision(1280))
    assert report == whole and plot.shape != chart.shape and "pip install matplotlib" in caplog.text
    assert plot.ndim == 4 and plot.shape[-1] == 3 and plot[:, :10].min() == 1 and plot.min() < 0.1, "black on white"
