"""The demo, started as a user starts it: pictures and a page where it says, or one sentence why not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import environment
import numpy as np
import pytest
from harness.setup import require_setup
from harness.workflows import missing_nodes
from PIL import Image

pytestmark = pytest.mark.programs

ROOT = Path(__file__).resolve().parents[2]
KEPT = environment.CACHE / "demo" / "output" / "story"  # shots and chunks, run by run
DEMO = [sys.executable, str(ROOT / "tools" / "demo.py")]

TOY_STORY = """[Bob] a green hero
[Eve] a red hero with a wide hat
---
[Bob] reading in a room #There is treasure!
[Eve] waving on a beach
"""

STORY = """[Bob] a man in a black suit
[Eve] a woman in a red coat
---
[Bob] at home, reads the paper #There is treasure!
[Bob] and [Eve] on the road
[NC] a castle on a hill #The end
"""


@pytest.fixture(autouse=True)
def _ready():
    require_setup()


def frames_of(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]


def demo(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    command = [*DEMO, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment.clean_environ(), capture_output=True, text=True, timeout=800
    )


def written(done: subprocess.CompletedProcess, folder: Path) -> list[Path]:
    """The files that a demo says it wrote, of which there is no other in their folder."""
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [folder / line.strip() for line in done.stdout.split("Done:\n")[1].splitlines()]
    assert set(printed) == set(printed[0].parent.iterdir())
    return printed


def drawn(done: subprocess.CompletedProcess, folder: Path) -> dict[str, Image.Image]:
    """The pictures that a demo says it wrote, each different from the others."""
    images = {path.name: Image.open(path) for path in written(done, folder) if path.suffix == ".png"}
    assert len({image.tobytes() for image in images.values()}) == len(images)
    return images


def killed_after_a_chunk(*arguments, cwd: Path) -> dict[Path, int]:
    """Start the demo, and end it and its host without a warning as soon as a chunk is on disk: {a file of what was
    finished by then: when it was written}."""
    before = set(KEPT.glob("*/*/*"))
    with open(cwd / "killed.log", "wb") as log:
        process = subprocess.Popen(
            [*DEMO, *map(str, arguments)],
            cwd=cwd,
            env=environment.clean_environ(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 800
    try:
        while not set(KEPT.glob("long/*/chunk_*.avi")) - before:
            assert process.poll() is None and time.monotonic() < deadline, (cwd / "killed.log").read_text()
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    finished = (path for path in set(KEPT.glob("*/*/*")) - before if path.suffix == ".avi")
    return {path: path.stat().st_mtime_ns for path in finished}


@pytest.fixture
def kept():
    """KEPT; what the test adds to it is gone afterwards."""
    before = set(KEPT.glob("*/*"))
    yield KEPT
    for folder in set(KEPT.glob("*/*")) - before:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="a group of processes is killed as POSIX does it")
def test_a_story_becomes_pictures_a_page_and_a_film(tmp_path, kept):
    """And it resumes where it was killed: in the chunks behind the shots of two pictures. Half of the usual steps."""
    (tmp_path / "story.txt").write_text(TOY_STORY, encoding="utf-8")
    arguments = ["--story", "story.txt", "--output", "here", "--seed", time.time_ns() % 2**32, "--steps", 8]
    finished = killed_after_a_chunk(*arguments, cwd=tmp_path)
    assert sum(path.name.startswith("shot_") for path in finished) == 2
    done = demo(*arguments, cwd=tmp_path)
    images = drawn(done, tmp_path)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert "demo model" in done.stdout and "60 words" in done.stdout
    assert "Each image is in" in done.stdout and "2 of 2 frames are on disk" in done.stdout
    assert sorted(images) == ["page_01.png", "picture_01.png", "picture_02.png"]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"story_001"}
    assert images["picture_01.png"].size == (128, 128) and images["page_01.png"].width == 768
    (film,) = (path for path in written(done, tmp_path) if path.suffix == ".mp4")
    frames = frames_of(film)
    assert len(frames) == 2 * 16 + 3 * 8 and {frame.shape for frame in frames} == {(128, 128, 3)}
    pictures = [np.asarray(images[f"picture_0{number}.png"].convert("RGB"), float) for number in (1, 2)]
    for number, shot in enumerate((frames[:16], frames[16:32])):
        away = [np.abs(shot[0] - picture).mean() for picture in pictures]
        assert away[number] < 10 < away[1 - number], "a shot begins with its picture"
        assert max(np.abs(frame - shot[0]).max() for frame in shot) > 60, "and something in it moves"
    away = [np.abs(frames[-1] - picture).mean() for picture in pictures]
    assert away[1] < away[0], "the film goes on with what the story ended with"


def test_a_checkpoint_draws_too(tmp_path, tiny_checkpoint):
    """A story of one frame in a few steps, since this is the example workflow at its own size."""
    (tmp_path / "story.txt").write_text("[Bob] a man\n---\n[Bob] walks", encoding="utf-8")
    arguments = ["--checkpoint", tiny_checkpoint("sd15"), "--story", "story.txt", "--steps", "1", "--output", "here"]
    done = demo(*arguments, cwd=tmp_path)
    assert "  Draw Story\n" in done.stdout and "    frame 1 of 1\n" in done.stdout
    images = drawn(done, tmp_path)
    assert "demo model" not in done.stdout
    assert images["picture_01.png"].size == (512, 512) and sorted(images) == ["page_01.png", "picture_01.png"]


def test_another_workflow_of_the_toy_draws_without_a_checkpoint(tmp_path):
    done = demo("--workflow", "storyworld_with_and_without", "--steps", "4", "--output", "here", cwd=tmp_path)
    images = drawn(done, tmp_path)
    assert sorted(images) == [*(f"picture_0{i}.png" for i in range(1, 9)), "plot_01.png", "plot_02.png"]


@pytest.mark.parametrize(
    ("workflow", "checkpoint", "sentence"),
    [
        ("storyworld_comic", ["--checkpoint", "some.safetensors"], "storyworld_comic takes no --checkpoint"),
        ("story_comic_sd15", [], "story_comic_sd15 needs a --checkpoint"),
    ],
)
def test_a_workflow_says_whether_it_wants_a_checkpoint(tmp_path, workflow, checkpoint, sentence):
    done = demo("--workflow", workflow, *checkpoint, cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr


@pytest.mark.parametrize(
    ("arguments", "story", "sentence"),
    [
        (["--checkpoint", "./no/where.safetensors"], STORY, "error: there is no checkpoint "),
        (
            ["--checkpoint", "no/where.safetensors"],
            STORY,
            "error: the host has no checkpoint no/where.safetensors; it has ",
        ),
        ([], "[Bob] a man\n[Bob] at home", "error: story.txt has no line of three dashes"),
        ([], STORY.replace("and [Eve]", "and [Eev]"), "did you mean [Eve]?"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path, arguments, story, sentence):
    (tmp_path / "story.txt").write_text(story, encoding="utf-8")
    done = demo("--story", "story.txt", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr and "Traceback" not in done.stderr


def test_the_ui_says_that_it_takes_no_story(tmp_path):
    (tmp_path / "story.txt").write_text(STORY, encoding="utf-8")
    done = demo("--ui", "--story", "story.txt", "--steps", "4", cwd=tmp_path)
    assert done.returncode == 2
    assert "--ui opens the workflow as it is, to be changed there: no --story, --steps with it" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for the user's browser is a POSIX command")
def test_the_ui_opens_the_workflow(tmp_path, browser):
    """With `echo` for a browser, the address that the user's browser would get is on the demo's output."""
    env = {**environment.clean_environ(), "BROWSER": "echo opened %s", "PYTHONUNBUFFERED": "1"}
    command = [*DEMO, "--ui", "--output", str(tmp_path)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("opened "))
        frontend = browser.open(address)
        deadline = time.monotonic() + 120
        while not any(node["class_type"] == "StoryReelLoadStoryworld" for node in frontend.export().values()):
            assert time.monotonic() < deadline, "the workflow did not open"
            frontend.page.wait_for_timeout(500)
        assert missing_nodes(frontend) == []
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    assert process.returncode == 130
