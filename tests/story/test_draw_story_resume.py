"""Draw Story on a real server: killed in a frame, inside a write and among the anchors, interrupted, and resumed."""

import json
from pathlib import Path

import pytest
from environment import ROOT
from harness import drawing
from harness.killing import run_until
from hosting.folders import link, make_base
from hosting.server import Server

ACTIONS = ("waving", "sitting", "standing")
PLACES = ("in a meadow", "on a beach", "in a town", "in a forest")
SCENES = [f"[{('Pim', 'Pom', 'NC')[number % 3]}] {ACTIONS[number % 3]} {PLACES[number % 4]}" for number in range(12)]


def prompt(**changed) -> dict:
    return drawing.story(SCENES, **{"anchors": 2, "name": "kill"} | changed)


def folder_of(output: Path, name: str = "kill") -> Path:
    return output / "story" / "frames" / name


def finished(output: Path) -> list[str]:
    """The images that the index lists."""
    index = folder_of(output) / "frames.json"
    return sorted(json.loads(index.read_text())["images"].values()) if index.exists() else []


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder_of(output).iterdir()}


@pytest.mark.parametrize("at_once", [1, 2])
def test_killed_at_any_moment_it_resumes(server, base, tmp_path, at_once):
    """kill -9 while the bank of the anchors is written, in frame 5 of 12, and inside a write: what is finished is not
    drawn again, and every file, banks included, is that of an unbroken run."""
    folder, output = make_base(tmp_path / "base", models=base / "models"), tmp_path / "output"
    link(folder / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
    graph = prompt(frames_at_once=at_once)
    whole = folder_of(output)
    moments = [
        lambda: any(whole.glob("bank_*.part")),
        lambda: len(finished(output)) >= 5,
        lambda: len(finished(output)) >= 7 and any(whole.glob("frame_*.part")),
    ]
    kept = {}
    for number, moment in enumerate(moments):
        with Server(folder, "--output-directory", str(output)) as broken:
            run_until(broken, graph, moment)
        assert 0 < number or finished(output) == []
        assert set(kept) <= set(finished(output)) and len(finished(output)) < 12
        assert {name: (whole / name).stat().st_mtime_ns for name in kept} == kept
        kept = {name: (whole / name).stat().st_mtime_ns for name in finished(output)}
    assert len(kept) >= 7

    with Server(folder, "--output-directory", str(output)) as resumed:
        client = resumed.client()
        result = client.run(graph)
        assert result.status == "success", result.message
        assert f"{len(kept)} of 12 frames are on disk".encode() in b"".join(result.previews)
    assert {name: (whole / name).stat().st_mtime_ns for name in kept} == kept

    client = server.client()
    unbroken = client.run(prompt(frames_at_once=at_once, name=f"kill{at_once}"))
    assert unbroken.status == "success", unbroken.message
    expected = {path.name: path.read_bytes() for path in folder_of(server.base / "output", f"kill{at_once}").iterdir()}
    found = contents(output)
    leftover = {name for name in found if name.endswith(".part")}
    assert {name: found[name] for name in found.keys() - leftover} == expected
    assert len([name for name in expected if name.endswith(".png")]) == 12


def test_killed_in_a_retake_it_resumes(server, base, tmp_path):
    """kill -9 while a frame is drawn again, and inside a write. Finished tries are not drawn again, and every file is
    that of an unbroken run."""
    folder, output = make_base(tmp_path / "base", models=base / "models"), tmp_path / "output"
    link(folder / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
    retakes = dict(clip_vision=["world", 3], retakes=2, retake_threshold=1.0)
    graph = drawing.story(SCENES[:5], name="kill", **retakes)
    whole = folder_of(output)
    moments = [
        lambda: len(finished(output)) >= 5,
        lambda: len(finished(output)) >= 6 and any(whole.glob("frame_*.part")),
    ]
    kept = {}
    for moment in moments:
        with Server(folder, "--output-directory", str(output)) as broken:
            run_until(broken, graph, moment)
        assert len(kept) < len(finished(output)) < 9
        assert {name: (whole / name).stat().st_mtime_ns for name in kept} == kept
        kept = {name: (whole / name).stat().st_mtime_ns for name in finished(output)}
    with Server(folder, "--output-directory", str(output)) as resumed:
        result = resumed.client().run(graph)
        assert result.status == "success", result.message
    assert {name: (whole / name).stat().st_mtime_ns for name in kept} == kept
    unbroken = server.client().run(drawing.story(SCENES[:5], name="kill_retake", **retakes))
    assert unbroken.status == "success", unbroken.message
    expected = {path.name: path.read_bytes() for path in folder_of(server.base / "output", "kill_retake").iterdir()}
    assert {name: content for name, content in contents(output).items() if not name.endswith(".part")} == expected
    assert len([name for name in expected if name.endswith(".png")]) == 9


def test_an_interrupt_keeps_what_is_finished(server):
    """It stops within a step; previews and the progress text come from the frame that is sampled."""
    client, done = server.client(), []
    graph = drawing.story(SCENES[2:8:3], name="interrupted", steps=12)

    def interrupt(kind, data, result):
        if kind == "progress" and data["max"] == 12:
            done.append(data["value"])
            if len(done) > 13:
                client.interrupt(result.prompt_id)

    result = client.run(graph, on_event=interrupt, extra_data={"preview_method": "latent2rgb"})
    assert result.status == "interrupted" and 13 < len(done) < 24
    texts = b"".join(result.previews)
    assert b"frame 1 of 2, step 12 of 12" in texts and b"frame 2 of 2, step 1 of 12" in texts
    assert sum(b"JFIF" in frame for frame in result.previews) >= 12
    result = client.run(graph)
    assert result.status == "success", result.message
    assert b"1 of 2 frames are on disk" in b"".join(result.previews)
