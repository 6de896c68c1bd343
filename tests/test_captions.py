"""Captions on a path of their own: editing one runs the page and the subtitles, and no sampler."""

import copy

import pytest
from storyreel.core.story.captions import with_captions
from storyreel.core.story.script import read_script
from storyreel.core.story.styles import PUBLISHED_STYLES

SCRIPT = "[Pim] waves in a meadow #One\n[Pim] sits in a town #Two\n[NC] rain #Three"


def story():
    styles = {style.name: style for style in PUBLISHED_STYLES}
    return read_script("[Pim] a blue hero", SCRIPT, "(No style)", "", styles)[0]


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("", ("One", "Two", "Three")),
        ("  \n ", ("One", "Two", "Three")),
        ("A\nB\nC\n", ("A", "B", "C")),
        ("A", ("A", "Two", "Three")),
        ("\nB", ("One"[:0], "B", "Three")),
        ("  [Pim]  waves. #1!\n\n[Pom] too", ("Pim waves. #1!", "", "[Pom] too")),
    ],
)
def test_a_line_is_the_caption_of_its_frame(text, captions):
    told = with_captions(story(), text)
    assert told.captions == captions
    assert told.prompts == story().prompts and told.cast == story().cast


def test_more_lines_than_frames_are_refused():
    with pytest.raises(ValueError, match="captions has 4 lines, and the story 3 frames; one line a frame is expected"):
        with_captions(story(), "a\nb\nc\nd")


def test_a_caption_too_long_is_refused_with_its_line():
    with pytest.raises(ValueError, match="captions line 2: the caption is 2001 characters long; at most 2000 are"):
        with_captions(story(), "a\n" + "b" * 2001)


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def comic(captions: str, scenes: str = SCRIPT) -> dict:
    told = dict(characters="[Pim] a blue hero", scenes=scenes, style="(No style)", negative="")
    sampling = dict(seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    page = dict(layout="automatic", font="Comic Neue (bundled)", page_width=256)
    return {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "script": node("StoryReelScript", **told),
        "text": node("StoryReelEncodeStory", clip=["world", 1], story=["script", 0]),
        "latent": node("StoryReelStoryLatent", story=["script", 0], width=64, height=64, noise="different"),
        "sampler": node(
            "KSampler", model=["world", 0], positive=["text", 0], negative=["text", 1], latent_image=["latent", 0],
            **sampling,
        ),
        "images": node("VAEDecode", samples=["sampler", 0], vae=["world", 2]),
        "captions": node("StoryReelCaptions", story=["script", 0], captions=captions),
        "page": node("StoryReelComicPage", images=["images", 0], story=["captions", 0], **page),
        "video": node("CreateVideo", images=["images", 0], fps=8.0),
        "subtitles": node("StoryReelSubtitles", video=["video", 0], story=["captions", 0]),
        "show": node("PreviewImage", images=["page", 0]),
        "srt": node("PreviewAny", source=["subtitles", 1]),
    }  # fmt: skip


def test_editing_a_caption_runs_page_and_subtitles_alone(host):
    def ran(prompt: dict) -> set[str]:
        events = host.run(copy.deepcopy(prompt), cached=True).events
        return {data["node"] for name, data in events if name == "executing" and data["node"]}

    assert "sampler" in ran(comic("A\nB\nC"))
    assert ran(comic("A\nB\nC!")) - {"show", "srt"} == {"captions", "page", "subtitles"}
    assert {"sampler", "text"} <= ran(comic("A\nB\nC!", SCRIPT.replace("waves", "jumps")))
