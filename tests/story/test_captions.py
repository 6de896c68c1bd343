"""Captions in their own node: editing one runs the page and the subtitles, and no sampler."""

import copy

import pytest
from harness import workflows
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
    captioned = with_captions(story(), text)
    assert captioned.captions == captions
    assert captioned.prompts == story().prompts and captioned.cast == story().cast


def test_more_lines_than_frames_are_refused():
    with pytest.raises(ValueError, match="captions has 4 lines, and the story 3 frames; one line a frame is expected"):
        with_captions(story(), "a\nb\nc\nd")


def test_a_caption_too_long_is_refused_with_its_line():
    with pytest.raises(ValueError, match="captions line 2: the caption is 2001 characters long; at most 2000 are"):
        with_captions(story(), "a\n" + "b" * 2001)


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def comic(captions: str, scenes: str = SCRIPT) -> dict:
    inputs = dict(characters="[Pim] a blue hero", scenes=scenes, style="(No style)", negative="")
    sampling = dict(seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    page = dict(layout="automatic", font="Comic Neue (bundled)", page_width=256)
    return {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "script": node("StoryReelScript", **inputs),
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


WITH_CAPTIONS = [name for name in workflows.NAMES if workflows.find_all(workflows.prompt(name), "StoryReelCaptions")]


def test_the_shipped_stories_keep_their_captions_apart():
    """One line a frame, none in the script; behind them are pages, subtitles and what saves these."""
    comics = {f"story_comic_{model}" for model in ("flux2_klein", "qwen_image", "sd15", "sdxl", "z_image_turbo")}
    comics.add("story_flux2_references")
    videos = {"story_to_long_video", "storyworld_story_to_long_video", "storyworld_story_to_shots"}
    toys = {"storyworld_comic", "storyworld_comic_transformer"}
    assert {*comics, *videos, *toys} == set(WITH_CAPTIONS)
    for name in WITH_CAPTIONS:
        prompt = workflows.prompt(name)
        captions = workflows.find(prompt, "StoryReelCaptions")
        script = prompt[captions]["inputs"]["story"][0]
        for id in workflows.find_all(prompt, "StoryReelScript"):
            assert "#" not in prompt[id]["inputs"]["scenes"], (name, id)
        lines = [prompt[id]["inputs"][text].splitlines() for id, text in ((script, "scenes"), (captions, "captions"))]
        assert len(lines[0]) == len(lines[1]) and all(map(str.strip, lines[1])), name
        kinds = {prompt[id]["class_type"] for id in behind(prompt, captions)}
        assert kinds <= {"StoryReelComicPage", "StoryReelSubtitles", "SaveImage", "SaveVideo"}, (name, kinds)
        for id in (
            id for kind in ("StoryReelComicPage", "StoryReelSubtitles") for id in workflows.find_all(prompt, kind)
        ):
            assert prompt[id]["inputs"]["story"] == [captions, 0], (name, id)


def behind(prompt: dict, id: str) -> set[str]:
    """The ids of all nodes that depend on this one."""
    next_ones = {
        other
        for other, entry in prompt.items()
        if any(isinstance(value, list) and value[0] == id for value in entry["inputs"].values())
    }
    return next_ones.union(*(behind(prompt, other) for other in next_ones))


@pytest.mark.parametrize("name", ["storyworld_comic", "storyworld_story_to_shots"])
def test_a_server_samples_nothing_for_an_edited_caption(server, name):
    """The shipped workflow, small, by the API of a real server: which nodes run."""
    client, prompt = server.client(), workflows.small_prompt(name, seed=4000)

    def ran() -> set[str]:
        result = client.run(prompt)
        assert result.status == "success", result.message
        return {data["node"] for kind, data in result.events if kind == "executing" and data["node"]}

    captions = workflows.find(prompt, "StoryReelCaptions")
    assert set(workflows.samplers(prompt)) <= ran()
    prompt[captions]["inputs"]["captions"] += "!"
    assert ran() == {captions} | behind(prompt, captions)
