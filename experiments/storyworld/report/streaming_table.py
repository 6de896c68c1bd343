"""The tables of the streaming model: which rows there are, and how documents show them."""

from __future__ import annotations

from ..evaluate import streaming as measure
from .table import Wanted, markdown, share, words

LONG, LONGEST = 8, 20  # chunks
SHOWN = (0, 1, 2, 4, 8, 14, LONGEST)  # chunks of the table by chunk
PARTS = ("drawn", *measure.STRENGTHS, measure.LAST_FRAME)
VIDEOS = {name: 6 for name in PARTS}
BLENDS = {f"both-blend-{blend}": 6 for blend in (measure.NONE, measure.SHARED, measure.RANDOMIZED)}
LONGER = {f"both-chunks-{LONGEST}": 2} | {f"{name}-chunks-{LONG}": 3 for name in ("no-apm", measure.LAST_FRAME)}
COLOURED = {f"both-chunks-{LONGEST}{colour}": 2 for colour in ("", "-colour-1")}
CHUNKED = {name: videos for name, videos in VIDEOS.items() if name != measure.DRAWN} | LONGER  # told chunk by chunk
COLUMNS = ("hero_jump", "hero_step", "jump", "cuts", "colours", "shapes", "scene", "drift")
OF_BLENDS = ("flow_deviation", "flow_jump", "jump", "colours", "drift")
OF_COLOURS = ("colours", "scene", "drift", "last_drift", "cuts")
BY_CHUNK = ("colours", "scene")


def wanted() -> list[Wanted]:
    """Every row; refined videos behind those that they are made of."""
    settings = {"both": VIDEOS["both"], **BLENDS} | VIDEOS | LONGER | COLOURED
    return [Wanted(name, videos, measure.read_setting(name).frames) for name, videos in settings.items()]


def line(row: dict) -> str:
    """A row in words."""
    return words(row, dict.fromkeys((*COLUMNS, *OF_BLENDS, *OF_COLOURS)))


def main_table(rows: dict[Wanted, dict]) -> list[str]:
    return _table(rows, VIDEOS | LONGER, COLUMNS)


def blends_table(rows: dict[Wanted, dict]) -> list[str]:
    return _table(rows, {"both": VIDEOS["both"], **BLENDS}, OF_BLENDS)


def colours_table(rows: dict[Wanted, dict]) -> list[str]:
    return _table(rows, COLOURED, OF_COLOURS)


def chunks_table(rows: dict[Wanted, dict]) -> list[str]:
    """What is right at the end of some chunks, of which number 0 was drawn."""
    lines = []
    for wish in wanted():
        if wish.setting in CHUNKED and wish in rows:
            for name in BY_CHUNK:
                chunks = rows[wish][f"{name}_by_chunk"]
                means = [chunks[number][0] if number < len(chunks) else None for number in SHOWN]
                lines.append([wish.setting, name, *("-" if mean is None else f"{mean:.2f}" for mean in means)])
    return markdown(["setting", "right", *map(str, SHOWN)], lines)


def _table(rows: dict[Wanted, dict], settings: dict[str, int], columns: tuple[str, ...]) -> list[str]:
    found = [wish for wish in wanted() if wish.setting in settings and wish in rows]
    cells = ([wish.setting, str(wish.stories), *(share(rows[wish], column) for column in columns)] for wish in found)
    return markdown(["setting", "n", *columns], cells)
