"""The demo, started as a user starts it: pictures and a page where it says, or one sentence why not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.folders import environment, require_setup
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DEMO = [sys.executable, str(ROOT / "tools" / "demo.py")]

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


def demo(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    command = [*DEMO, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment().clean_environ(), capture_output=True, text=True, timeout=800
    )


def test_a_story_becomes_pictures_and_a_page(tmp_path):
    (tmp_path / "story.txt").write_text(STORY, encoding="utf-8")
    done = demo("--story", "story.txt", "--output", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "random weights" in done.stdout and "noise" in done.stdout
    printed = [Path(line.strip()) for line in done.stdout.split("Done:\n")[1].splitlines()]
    names = [path.name for path in printed]
    assert sorted(names) == ["page_01.png", "picture_01.png", "picture_02.png", "picture_03.png"]
    assert {tmp_path / path for path in printed} == set((tmp_path / "here" / "story_001").iterdir())
    images = {path.name: Image.open(tmp_path / path) for path in printed}
    assert len({image.tobytes() for image in images.values()}) == 4
    assert images["page_01.png"].width > images["picture_01.png"].width


@pytest.mark.parametrize(
    ("arguments", "story", "sentence"),
    [
        (
            ["--checkpoint", "nowhere.safetensors"],
            STORY,
            "error: the host has no checkpoint nowhere.safetensors; it has ",
        ),
        (["--checkpoint", "no/where.safetensors"], STORY, "error: there is no checkpoint "),
        ([], "[Bob] a man\n[Bob] at home", "error: story.txt has no line of three dashes"),
        ([], STORY.replace("and [Eve]", "and [Eev]"), "did you mean [Eve]?"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path, arguments, story, sentence):
    (tmp_path / "story.txt").write_text(story, encoding="utf-8")
    done = demo("--story", "story.txt", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for the user's browser is a POSIX command")
def test_the_ui_opens_the_workflow(tmp_path, browser):
    """With `echo` for a browser, the address that the user's browser would get is on the demo's output."""
    env = {**environment().clean_environ(), "BROWSER": "echo opened %s", "PYTHONUNBUFFERED": "1"}
    command = [*DEMO, "--ui", "--output", str(tmp_path)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("opened "))
        frontend = browser.open(address)
        deadline = time.monotonic() + 120
        while not any(node["class_type"] == "CheckpointLoaderSimple" for node in frontend.export().values()):
            assert time.monotonic() < deadline, "the workflow did not open"
            frontend.page.wait_for_timeout(500)
        assert frontend.missing_nodes() == []
        loaders = [node for node in frontend.export().values() if node["class_type"] == "CheckpointLoaderSimple"]
        assert [loader["inputs"]["ckpt_name"] for loader in loaders] == ["sd15_full.ckpt"]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    assert process.returncode == 130
