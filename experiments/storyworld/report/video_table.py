"""The tables of the video model: which rows there are, how documents show them, and what must be reached."""

from __future__ import annotations

from ..evaluate.video import FRAMES
from .table import Wanted, markdown, share, words

PICTURES = {  # of each setting: start pictures, each with every caption
    "drawn": 5,
    "animate": 4,
    "animate-no-text": 2,
    "animate-no-image": 2,
    "animate-no-beside": 2,
    "drawn-wide": 4,
    "animate-wide": 3,
}
GUIDANCE = {f"animate-scales-{text}-{picture}": 2 for text in (1, 4) for picture in (1, 4)}
ENDS = {"interpolate": 8, "interpolate-no-text": 8, "loop": 8}  # with one caption each
COLUMNS = ("action", "path", "first", "every", "colours", "still", "scene")
OF_ENDS = ("action", "first", "last", "middle", "blend", "middle_moving", "blend_moving", "seam", "away")
GATES = {"action": 0.9, "first": 29.0, "colours": 0.9, "still": 0.9}  # of gentle clips


def wanted() -> list[Wanted]:
    return [Wanted(name, pictures, FRAMES) for name, pictures in (PICTURES | ENDS | GUIDANCE).items()]


def line(row: dict) -> str:
    """A row in words."""
    return words(row, dict.fromkeys((*COLUMNS, *OF_ENDS)))


def main_table(rows: dict[Wanted, dict]) -> list[str]:
    return _table(rows, PICTURES, COLUMNS)


def guidance_table(rows: dict[Wanted, dict]) -> list[str]:
    return _table(rows, GUIDANCE, ("action", "first", "every", "colours", "still"))


def ends_table(rows: dict[Wanted, dict]) -> list[str]:
    return _table(rows, ENDS, OF_ENDS)


def failed(rows: dict[Wanted, dict]) -> list[str]:
    """A sentence for every gate that the model does not pass."""
    row = rows[Wanted("animate", PICTURES["animate"], FRAMES)]
    return [
        f"{name} is {share(row, name)} in gentle clips; at least {least} is expected"
        for name, least in GATES.items()
        if row[name] < least
    ]


def _table(rows: dict[Wanted, dict], settings: dict[str, int], columns: tuple[str, ...]) -> list[str]:
    wishes = [Wanted(name, pictures, FRAMES) for name, pictures in settings.items()]
    found = [rows[wish] for wish in wishes if wish in rows]
    cells = ([row["setting"], str(row["stories"]), *(share(row, name) for name in columns)] for row in found)
    return markdown(["setting", "n", *columns], cells)
