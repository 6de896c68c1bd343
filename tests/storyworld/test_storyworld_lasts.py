"""What the shipped streaming model of Storyworld is worth, on the real host: what a long video keeps of its start."""

import hashlib
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs  # one is; all need the same models

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "storyworld"
STREAMING, VIDEO = (WEIGHTS / f"storyworld_{part}.safetensors" for part in ("streaming", "video"))


@pytest.fixture(scope="module")
def pipeline(host, lab):
    return lab.evaluate.streaming.Streaming(steps=7)


def measured(pipeline, lab, mode: str, chunks: int, videos: int) -> dict:
    return pipeline.measure(lab.evaluate.streaming.LongSetting(name=mode, mode=mode, chunks=chunks), videos, seed=50)


def weights() -> str:
    """The name of the weights in measured rows: of this model and the baseline beside it."""
    return hashlib.sha256(STREAMING.read_bytes() + VIDEO.read_bytes()).hexdigest()[:16]


def test_its_card_tells_of_the_very_file():
    card = STREAMING.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(STREAMING.read_bytes()).hexdigest() in card
    for word in ("base steps", "cam steps", "apm steps", "frames 24", "reached: colors", "license"):
        assert word in card
    assert STREAMING.stat().st_size <= 16e6


def test_the_file_says_what_shapes_do_not(lab):
    stated = json.loads(lab.train.export.load(STREAMING)[1]["storyreel_streaming"])
    assert (stated["frames"], stated["memory"], stated["v_prediction"]) == (16, 8, True)
    assert stated["latents"]["spread"] > 0


def test_the_reader_can_be_believed(pipeline, lab):
    """Asserted before anything is measured with it, on long videos as the autoencoder gives them back."""
    drawn = measured(pipeline, lab, "drawn", 2, 4)
    assert min(drawn["colors"], drawn["scene"]) >= 0.9 and drawn["cuts"] == 0 and drawn["jump"] < 3, drawn


def test_cam_keeps_the_place_and_apm_the_looks(pipeline, lab):
    """Three clips, a chunk each: without the two the hero is somewhere else, and another."""
    both, neither = (measured(pipeline, lab, name, 1, 3) for name in ("both", "neither"))
    assert both["hero_jump"] < neither["hero_jump"] / 2 and both["jump"] < neither["jump"], (both, neither)
    assert both["colors"] > neither["colors"] and both["scene"] >= 0.9, (both, neither)


def test_documents_show_the_rows_that_were_measured(lab):
    """All rows of these very weights, in docs/benchmarks.md."""
    rows, pipeline = lab.report.rows.Rows(WEIGHTS / "measured_streaming.jsonl"), lab.evaluate.streaming.Streaming
    assert rows.missing(pipeline.settings, 0, weights()) == []
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name, lines in pipeline.tables(rows, weights()).items():
        assert "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"]) in page
