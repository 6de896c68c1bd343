"""What the shipped video model of Storyworld is worth, on the real host: the picture kept, the caption obeyed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs  # one is; all need the same models

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "storyworld"
VIDEO = WEIGHTS / "storyworld_video.safetensors"


@pytest.fixture(scope="module")
def pipeline(host, lab):
    return lab.evaluate.video.Video(steps=8)


@pytest.fixture(scope="module")
def moved(pipeline, lab) -> dict:
    """A picture that no stage has seen, with four of the ten gentle captions."""
    plain = lab.evaluate.video.PLAIN
    return pipeline.measure(replace(plain, actions=plain.actions[::3]), 1, seed=50)


def test_its_card_tells_of_the_very_file(lab):
    card = VIDEO.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(VIDEO.read_bytes()).hexdigest() in card
    for word in ("seed", "steps", "frames 16", "reached: first", "license"):
        assert word in card
    assert VIDEO.stat().st_size <= 16e6


def test_the_reader_can_be_believed(pipeline, lab):
    """Asserted before anything is measured with it, on clips as the autoencoder gives them back."""
    drawn = pipeline.measure(lab.evaluate.video.DRAWN, 2, seed=50)
    assert drawn["action"] >= 0.95 and drawn["path"] >= 0.95 and drawn["colors"] >= 0.95, drawn


def test_the_picture_is_kept(moved):
    assert moved["first"] >= 29 and moved["still"] >= 0.9 and moved["scene"] >= 0.9, moved


def test_the_caption_is_obeyed(moved):
    """The classifier knows ten actions: by chance it would read one in ten right."""
    assert moved["action"] >= 0.5 and moved["path"] >= 0.7, moved


def test_documents_show_the_rows_that_were_measured(lab):
    """All rows are there for these very weights, and docs/benchmarks.md shows what they say."""
    rows, pipeline = lab.report.rows.Rows(WEIGHTS / "measured_video.jsonl"), lab.evaluate.video.Video
    weights = hashlib.sha256(VIDEO.read_bytes()).hexdigest()[:16]
    assert rows.missing(pipeline.settings, 0, weights) == []
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name, lines in pipeline.tables(rows, weights).items():
        assert "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"]) in page


def test_the_benchmarks_name_what_the_model_does_not_reach(lab):
    weights = hashlib.sha256(VIDEO.read_bytes()).hexdigest()[:16]
    rows = lab.report.rows.Rows(WEIGHTS / "measured_video.jsonl").of(weights)
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    section = page.partition("## Image to video")[2].partition("<!-- video -->")[0]
    for sentence in lab.evaluate.video.missed(rows):
        assert f"*{sentence.split()[0]}*" in section, sentence


def test_the_file_says_what_shapes_do_not(lab):
    stated = json.loads(lab.train.export.load(VIDEO)[1]["storyreel_dynamicrafter"])
    assert stated["interpolates"] and stated["frames"] == 16 and stated["size"] == [128, 128]
