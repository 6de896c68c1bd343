"""Long work is named by what it reads: other changes repeat nothing, and a missing file is computed again.

A story's shots by the included video model, then Extend Video, in the host, with its cache and without.
"""

import copy
import shutil
from pathlib import Path

import av
import pytest

CHARACTERS, SCENES = "[Pim] a blue hero", ["[Pim] waving in a meadow #Hello wrold", "[Pim] sitting in a town #Two"]
COLORS = (0xFF0000, 0x00FF00, 0x0000FF)
FRAMES = 3


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def video(scenes=SCENES, characters: str = CHARACTERS, colors=COLORS, long: bool = False, **shot) -> dict:
    """Three images, two shots between them; long: and one chunk after them."""
    inputs = dict(characters=characters, scenes="\n".join(scenes), style="(No style)", negative="")
    prompt = {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "story": node("StoryReelScript", **inputs),
        "text": node("StoryReelEncodeStory", clip=["world", 1], story=["story", 0]),
        "model": node(
            "StoryReelDynamiCrafterLoader",
            checkpoint="storyworld_video.safetensors",
            model_type="auto",
            precision="auto",
        ),
        "sampler": node("StoryReelDDIMSampler", eta=1.0, keep_clean=False),
        "sigmas": node("StoryReelDDIMSigmas", model=["model", 0], spacing="uniform_trailing", steps=1),
        "images": node(
            "BatchImagesNode", **{f"images.image{number}": [f"p{number}", 0] for number in range(len(colors))}
        ),
        "save": node("SaveVideo", video=["shots", 0], filename_prefix="once", format="auto", codec="auto"),
    }
    prompt |= {
        f"p{number}": node("EmptyImage", width=64, height=64, batch_size=1, color=color)
        for number, color in enumerate(colors)
    }
    shared = dict(model=["model", 0], clip_vision=["world", 3], vae=["world", 2], sampler=["sampler", 0])
    shared |= dict(sigmas=["sigmas", 0], positive=["text", 0], negative=["text", 1], seed=3, fps=8.0)
    size = dict(width=64, height=64, frames=FRAMES, fs=0, cfg_text=1.0, cfg_image=1.0, cfg_rescale=0.0)
    prompt["shots"] = node(
        "StoryReelAnimateStory", **{**shared, **size, "keyframes": ["images", 0], "mode": "interpolate", **shot}
    )
    if long:
        more = dict(frames=["shots", 0], anchor=0, chunks=1, chunk_length=FRAMES, overlap=1, cfg=1.0)
        more |= dict(cam_strength=1.0, apm_strength=1.0, color_match=0.0, output_images=False)
        prompt["long"] = node("StoryReelExtendVideo", **shared, **more)
        prompt["save"]["inputs"]["video"] = ["long", 0]
    return prompt


@pytest.fixture
def written(host, tmp_path):
    """written(prompt, cached=False) runs it in a folder that starts empty: the names of the files that it wrote."""
    import folder_paths

    output = tmp_path / "output"
    output.mkdir()
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(output))

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in output.rglob("*.avi") if path.is_file()}

    def run(prompt: dict, cached: bool = False) -> list[str]:
        there = kept()
        host.run(copy.deepcopy(prompt), cached=cached)  # the host changes its input
        assert list(output.glob("once_*")), "a video is saved"
        return sorted(path.name[:8] for path, time in kept().items() if there.get(path) != time)

    run.output = output
    yield run
    folder_paths.set_output_directory(before)


def test_changes_that_shots_do_not_read_repeat_none(written):
    assert shots_of(written(video())) == ["shot_001", "shot_002"]
    names = {path.name for path in written.output.rglob("shot_*.avi")}
    assert len(names) == 2
    assert written(video([scene.replace("wrold", "world") for scene in SCENES])) == [], "a corrected caption"
    more = CHARACTERS + " # a comment\n[Pom] a red hero"
    assert written(video(characters=more)) == [], "a comment, an unused character"
    assert written({f"n{id}": renamed(entry) for id, entry in video().items()}) == [], "other node ids"
    titled = video()
    titled["shots"]["_meta"] = {"title": "My video"}
    assert written(titled) == [], "another title"
    assert {path.name for path in written.output.rglob("shot_*.avi")} == names


def renamed(entry: dict) -> dict:
    def link(value):
        return [f"n{value[0]}", value[1]] if isinstance(value, list) else value

    return {**entry, "inputs": {name: link(value) for name, value in entry["inputs"].items()}}


def shots_of(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("shot")]


def test_a_change_that_a_shot_reads_repeats_it(written):
    assert len(shots_of(written(video()))) == 2
    scenes = [SCENES[0], SCENES[1].replace("sitting", "waving")]
    assert shots_of(written(video(scenes))) == ["shot_002"], "the prompt of the second"
    assert shots_of(written(video(colors=(0xFF0001, *COLORS[1:])))) == ["shot_001"], "the image that it starts from"
    assert shots_of(written(video(seed=4))) == ["shot_001", "shot_002"]
    assert shots_of(written(video(cfg_image=2.0))) == ["shot_001", "shot_002"]
    assert shots_of(written(video(fps=12.0))) == []


def test_a_corrected_caption_leaves_the_chunks_of_a_video(written):
    assert [name for name in written(video(long=True)) if name.startswith("chunk")] == ["chunk_00"]
    assert written(video([scene.replace("wrold", "world") for scene in SCENES], long=True)) == []
    scenes = [SCENES[0].replace("waving", "sitting"), SCENES[1]]
    changed = written(video(scenes, long=True))
    assert shots_of(changed) == ["shot_001"] and "chunk_00" in changed


@pytest.mark.parametrize("long", [False, True])
def test_a_missing_file_is_computed_again(written, long):
    """With an unchanged graph, whose results the host has in its cache; also with Extend Video."""
    prompt = video(long=long)
    first = written(prompt, cached=True)
    assert written(prompt, cached=True) == []
    for entry in written.output.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert written(prompt, cached=True) == first
    (saved,) = written.output.glob("once_*")
    with av.open(str(saved)) as container:
        assert len(list(container.decode(video=0))) == 2 * FRAMES - 1 + 2 * long
    assert written(prompt, cached=True) == []
