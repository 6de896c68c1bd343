"""Where files go: whatever a graph asks for, inside their folder, or nowhere."""

import math
from pathlib import Path

import pytest
import torch
from harness.values import given

OUTSIDE = ["../escaped", "../../escaped", "/tmp/storyreel_escaped", "a/../../escaped", "..", ".", "", "\0", "x" * 5000]
RUN, SHOT = "0" * 24, "shot_001_0123456789ab"


@pytest.mark.parametrize("name", OUTSIDE + ["a\0b", "  ", 7, 0.5, None, ["a"], math.nan, "é" * 150])
def test_a_name_outside_is_refused_before_anything_is_created(host, tmp_path, name):
    from storyreel.host.common.folders import inside

    folder = tmp_path / "inner" / "output"
    with pytest.raises(ValueError, match="^name is .* expected.$"):
        inside(folder, name, "name")
    assert list(tmp_path.iterdir()) == []


def test_a_name_inside_is_taken_through_links_of_the_users_own(host, tmp_path):
    """Such as an output folder on another disk."""
    from storyreel.host.common.folders import inside

    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    assert inside(tmp_path / "output", "a/b..c/../d", "name") == tmp_path / "output" / "a" / "d"


@pytest.mark.parametrize("run", [*OUTSIDE, "0" * 23, "/etc", 7, None, RUN.replace("0", "A"), f"{RUN}\n"])
def test_a_run_cannot_leave_the_output_folder(host, run):
    from storyreel.host.common import run_folder
    from storyreel.host.story import shots

    with pytest.raises(ValueError, match="is no key of a run"):
        shots.shot_path(run, SHOT)
    with pytest.raises(ValueError, match="is no key of a run"):
        run_folder.run_folder("long", run)


@pytest.mark.parametrize("shot", [*OUTSIDE, "shot_1_0123456789ab", f"../{SHOT}", 1, 0.5, None, f"{SHOT}\n"])
def test_a_shot_cannot_leave_its_run(host, shot):
    from storyreel.host.story import shots

    with pytest.raises(ValueError, match="is no name of a shot"):
        shots.shot_path(RUN, shot)


def shot_prompt(values: dict, **changed) -> dict:
    """Keep Shot alone in a graph, with a text as its run or shot."""
    inputs = dict(samples=["latent", 0], vae=["vae", 0], start_image=["picture", 0], run=RUN, shot=SHOT, fps=8.0)
    keep = {"class_type": "StoryReelKeepShot", "inputs": inputs | {"expansion": "1"} | changed}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["keep", 0]}}
    return values | {"keep": keep, "show": show}


@pytest.mark.parametrize("changed", [{}, {"shot": ["path", 0]}, {"run": ["path", 0]}])
def test_inner_nodes_run_nowhere_but_inside_ours(host, tmp_path, changed):
    """As a shared graph may hold them: no file is written under any name."""
    output = host.base / "output"
    before = set(output.rglob("*"))
    target = tmp_path / "escaped"
    with given(host, latent={"samples": torch.zeros(1, 4, 8, 8)}, vae=object(), picture=torch.zeros(1, 64, 64, 3)) as v:
        v["path"] = {"class_type": "PrimitiveString", "inputs": {"value": str(target)}}
        with pytest.raises(RuntimeError, match="StoryReelKeepShot works only inside StoryReelAnimateStory"):
            host.run(shot_prompt(v, **changed))
    assert set(output.rglob("*")) == before and list(tmp_path.iterdir()) == []


def test_every_inner_node_checks_its_caller(host):
    """All nodes that are hidden from users, each also without a prompt."""
    from storyreel.nodes.node import InnerNode

    inner = [cls for name, cls in host.nodes.items() if name.startswith("StoryReel") and cls.GET_SCHEMA().is_dev_only]
    assert len(inner) >= 3 and all(issubclass(cls, InnerNode) and cls.outer for cls in inner)
    for cls in inner:
        with pytest.raises(ValueError, match=f"{cls.GET_SCHEMA().node_id} works only inside"):
            cls.execute()


@pytest.mark.parametrize("name", [*OUTSIDE, "story/", 7, math.nan])
def test_figures_stay_in_the_output_folder(host, name):
    """Measure Video's file, from a linked name."""
    before = set(Path(host.base).rglob("*"))
    settings = dict(video=["frames", 0], chunk_length=0, overlap=8, prompt="", slice_height=0.5)
    with given(host, frames=torch.rand(3, 16, 16, 3), name=name) as values:
        measure = {"class_type": "StoryReelMeasureVideo", "inputs": settings | {"filename_prefix": ["name", 0]}}
        with pytest.raises(RuntimeError, match="Measure Video: filename_prefix "):
            host.run(values | {"measure": measure})
    assert set(Path(host.base).rglob("*")) == before and not Path("/tmp/storyreel_escaped").exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_trained_predictor_and_its_clips_stay_in_their_folders(host, name):
    from storyreel.host.motion import training

    with pytest.raises(ValueError, match="^name is"):
        training.output_file(name)
    with pytest.raises(ValueError, match="^clips is"):
        training.input_folder(name)
