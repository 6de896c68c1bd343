"""Measure Story and Measure Video with an encoder in a folder: their scores are those of the package's own network."""

import pytest
import torch
from harness.host import InvalidPrompt
from harness.huggingface import SIDE, random_clip, write_folder, write_open_clip
from storyreel.core.metrics.similarity import character_similarity, text_similarity
from storyreel.core.story.script import read_script
from storyreel.core.story.styles import NO_STYLE, PLACE, Style
from storyreel.core.video.images import CLIP_MEAN, CLIP_STD

PLAIN = {"crop_size": SIDE, "size": SIDE, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}  # pixels as they are


@pytest.fixture(scope="module")
def network():
    return random_clip()


@pytest.fixture
def story():
    scenes = "[Bob] at home\n[Bob] on the road\n[NC] a castle\n[Bob] laughs"
    return read_script("[Bob] a man", scenes, NO_STYLE, "", {NO_STYLE: Style(NO_STYLE, PLACE)})[0]


@pytest.fixture
def images():
    return torch.rand(4, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2))


def measure_story(*inputs, **options):
    from storyreel.nodes.metrics import StoryReelMeasureStory

    return StoryReelMeasureStory.execute(*inputs, **options)


def scores(report: str) -> list[str]:
    return [line for line in report.splitlines() if line.startswith(("  Bob:", "  1.", "  2.", "  4.", "Text-image"))]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip_vision_model", "dinov2"])
def test_a_story_is_measured_by_transformers(folder, story, images, kind):
    network = write_folder(folder(f"papers/{kind}"), kind, PLAIN)
    out = network(images.movedim(-1, 1))
    embeds = out.pooler_output if kind == "dinov2" else out.image_embeds
    expected = character_similarity(story, embeds)
    report = measure_story(images, story, encoder_folder=f"papers/{kind}").result[0]
    assert scores(report)[0] == f"  Bob: {expected.characters['Bob']:.3f}"
    assert f"  4. {expected.frames[3]:.3f}  (Bob)" in report and f"(papers/{kind}, by transformers)" in report
    assert "text-image similarity: needs a text encoder, and papers/" in report


@torch.no_grad()
def test_a_story_is_measured_by_open_clip(folder, network, story, images):
    import open_clip

    path = folder("tiny")
    write_open_clip(path, network)
    write_folder(path, "dinov2")  # such folders often hold files for transformers, too
    pixels = (images - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    embeds = network.encode_image(pixels.movedim(-1, 1))
    texts = network.encode_text(open_clip.tokenize(story.prompts))
    characters, prompts = character_similarity(story, embeds), text_similarity(story, embeds, texts)
    report = measure_story(images, story, encoder_folder="tiny").result[0]
    assert scores(report) == [
        f"  Bob: {characters.characters['Bob']:.3f}",
        *(f"  {n}. {characters.frames[n - 1]:.3f}, {prompts.frames[n - 1]:.3f}  (Bob)" for n in (1, 2, 4)),
        f"Text-image similarity: {prompts.mean:.3f}",
    ]
    assert "(tiny, by open_clip)" in report and "Not computed" not in report


@torch.no_grad()
def test_a_video_is_measured_by_open_clip(folder, network, measure, images):
    import open_clip

    write_open_clip(folder("tiny"), network)
    rows = torch.nn.functional.normalize(
        network.encode_image(((images - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).movedim(-1, 1)), dim=-1
    )
    text = torch.nn.functional.normalize(network.encode_text(open_clip.tokenize("a man on the road")), dim=-1)
    _, found = measure(images, encoder_folder="tiny", prompt="a man on the road")
    assert found["series"]["prompt_likeness"] == pytest.approx((rows @ text.T)[:, 0].tolist(), abs=1e-5)
    assert found["series"]["consistency"][1:] == pytest.approx((rows[1:] * rows[:-1]).sum(-1).tolist(), abs=1e-5)
    assert found["likeness"]["encoder"].endswith("(tiny, by open_clip)")
    assert "CLIP text-image score" not in found["not_computed"]
    _, again = measure(images, encoder_folder="tiny")
    assert again["not_computed"]["CLIP text-image score"] == "needs a prompt."
    assert again["likeness"]["consistency"] == found["likeness"]["consistency"]


def test_what_does_not_fit_is_refused(host, folder, story, images, clip_vision):
    from storyreel.nodes.metrics import StoryReelMeasureStory

    with pytest.raises(ValueError, match="clip_vision is empty: connect an image encoder, or choose one at encoder_f"):
        measure_story(images, story)
    with pytest.raises(ValueError, match="Measure Story: clip_vision is empty"):  # before the images are drawn
        StoryReelMeasureStory.check_lazy_status(images=None, story=story, encoder_folder="none")
    write_folder(folder("tiny"), "dinov2")
    shown = measure_story(images, story, clip_vision, encoder_folder="tiny").ui["text"]
    assert shown == ["clip_vision and clip have no effect, since encoder_folder is tiny; set it to none for them."]


def test_a_folder_is_chosen_in_a_graph(host, folder, network):
    write_open_clip(folder("chosen"), network)

    def run(name):
        image = {"class_type": "EmptyImage", "inputs": dict(width=SIDE, height=SIDE, batch_size=2, color=0)}
        inputs = dict(chunk_length=0, overlap=0, prompt="a", filename_prefix="graph", slice_height=0.5)
        node = {"class_type": "StoryReelMeasureVideo", "inputs": {"video": ["a", 0], "encoder_folder": name, **inputs}}
        return host.run({"a": image, "b": node}).values["b"][0]

    assert "(chosen, by open_clip), middle squares of the frames\n  CLIP text-image score: " in run("chosen")
    with pytest.raises(InvalidPrompt, match="encoder_folder"):
        run("elsewhere")
