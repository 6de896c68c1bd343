"""What several test modules of this room use."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from storyreel.core.metrics.motion import Motion


@pytest.fixture
def folder(host):
    """folder(name) -> models/clip_vision/name, removed when the test is over."""
    made = []

    def path(name: str):
        made.append(host.base / "models" / "clip_vision" / name)
        made[-1].mkdir(parents=True, exist_ok=True)
        return made[-1]

    yield path
    for found in made:
        shutil.rmtree(found)


@pytest.fixture
def measure(host, monkeypatch, tmp_path):
    """measure(video, ...) -> (report, what the JSON file holds) of Measure Video, with a quick flow."""
    import folder_paths
    from storyreel.host.metrics import video_metrics
    from storyreel.nodes.video_metrics import StoryReelMeasureVideo

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(video_metrics, "Motion", partial(Motion, side=64))

    def run(video, **changes):
        inputs = dict(chunk_length=0, overlap=8, prompt="", filename_prefix="scores", slice_height=0.5)
        report, plot, _, path = StoryReelMeasureVideo.execute(video=video, **(inputs | changes)).result
        assert plot.max() > 0
        return report, json.loads(Path(path).read_text(), parse_constant=pytest.fail)

    return run
