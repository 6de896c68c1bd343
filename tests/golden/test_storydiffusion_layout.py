"""Comic pages against the published page builders: sizes, rows, columns and image numbers, exact.

A four-panel page with a missing picture shrank there, because the missing one had no border; ours is held to the size
of its other panels instead.
"""

import json

import pytest
from harness.golden import folder
from storyreel.core.story import layout

FOLDER = folder("storydiffusion")
FILE = FOLDER / "layout_cases.json"


def cases():
    recorded = json.loads(FILE.read_text(encoding="utf-8"))["cases"] if FILE.is_file() else []
    named = [pytest.param(case, id=f"{case['kind']}-{case['images']}-{number}") for number, case in enumerate(recorded)]
    return named or [pytest.param(None, id="no layout_cases.json")]


def is_four_panel(case):
    return case["kind"].startswith("Four")


def is_padded(page):
    return any("pad" in column["panels"] for row in page["rows"] for column in row["columns"])


def ours(case):
    name = "four panel" if is_four_panel(case) else "classic"
    return layout.pages(name, case["images"], tuple(case["image_size"]), seed=case["seed"] or 0)


def as_published(page):
    """Our page in the form of the data."""
    return {
        "size": [page.width, page.height],
        "rows": [
            {
                "y": row.y,
                "height": row.scaled_height,
                "unscaled_size": [row.width, row.height],
                "columns": [
                    {
                        "x": column.x,
                        "size": [column.width, column.height],
                        "panels": ["pad" if frame is None else frame for frame in column.frames],
                    }
                    for column in row.columns
                ],
            }
            for row in page.rows
        ],
    }


def unpadded(page):
    """A published four-panel page in which a missing image has the size of the others."""
    columns = [column for row in page["rows"] for column in row["columns"]]
    width, height = next(column["size"] for column in columns if "pad" not in column["panels"])
    rows = [
        {
            "y": number * height,
            "height": height,
            "unscaled_size": [len(row["columns"]) * width, height],
            "columns": [
                {"x": place * width, "size": [width, height], "panels": column["panels"]}
                for place, column in enumerate(row["columns"])
            ],
        }
        for number, row in enumerate(page["rows"])
    ]
    return {"size": [rows[0]["unscaled_size"][0], len(rows) * height], "rows": rows}


@pytest.mark.parametrize("case", cases())
def test_pages_equal_the_published_ones(case):
    assert case is not None, f"{FOLDER} has no layout_cases.json with cases"
    expected = [unpadded(p) if is_four_panel(case) and is_padded(p) else p for p in case["pages"]]
    assert [as_published(page) for page in ours(case)] == expected


@pytest.mark.parametrize("case", cases())
def test_every_image_has_its_panel_with_or_without_captions(case):
    assert case is not None, f"{FOLDER} has no layout_cases.json with cases"
    placed = [panel.frame for page in ours(case) for panel in page.panels]
    assert placed == list(range(case["images"]))
    assert {frame for frame, _ in case["captioned_panels"] if frame != "pad"} <= set(placed)
