"""The rows that were measured, kept as JSON lines, and the tables that documents show of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAIN = (
    "plain",
    "plain-noise-same",
    "plain-noise-character",
    "csa",
    "csa-noise-same",
    "csa-all-1",
    "csa-all-1-noise-same",
)
FACTORS = {
    "preset": ("csa-mask", "csa-paper", "csa-custom"),
    "rate": ("csa-0.25", "csa", "csa-0.75", "csa-1"),
    "anchors": ("csa-anchors-1", "csa-anchors-2", "csa", "csa-anchors-0"),
    "blocks": ("csa-blocks-down", "csa-blocks-middle", "csa", "csa-blocks-all"),
    "start": ("csa-start-0", "csa", "csa-start-0.1", "csa-start-0.25"),
    "end": ("csa-end-0.5", "csa-end-0.75", "csa-end-0.9", "csa"),
    "rate 1, end": ("csa-1-end-0.5", "csa-1-end-0.75"),
    "strength": ("csa-strength-0.5", "csa", "csa-strength-2"),
    "place named": ("plain-placed", "csa-placed", "csa-boxed"),
}
LENGTHS = ("plain", "csa", "csa-tile-4", "csa-tile-8")
STORIES, FRAMES = 64, 4
STORIES_OF_OTHERS = 32  # of a UNet that does not ship
LONGER = {8: 24, 16: 12, 40: 6}  # frames: stories
COLUMNS = ("colours", "shapes", "named", "scene", "action")


@dataclass(frozen=True)
class Wanted:
    """A row of the table: a setting over so many stories of so many frames."""

    setting: str
    stories: int = STORIES
    frames: int = FRAMES


def wanted(shipped: bool) -> list[Wanted]:
    """Every row for the model that ships, the main ones for another."""
    if not shipped:
        return [Wanted(setting, STORIES_OF_OTHERS) for setting in MAIN]
    rows = [Wanted(setting) for setting in MAIN]
    rows += [Wanted(setting) for settings in FACTORS.values() for setting in settings]
    rows += [Wanted(setting, stories, frames) for frames, stories in LONGER.items() for setting in LENGTHS]
    return list(dict.fromkeys(rows))


class Rows:
    """The file of rows. A row belongs to the weights whose hash it carries."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def missing(self, wanted: list[Wanted], seed: int, weights: str) -> list[Wanted]:
        have = {
            Wanted(row["setting"], row["stories"], row["frames"])
            for row in self.rows
            if (row["seed"], row["weights"]) == (seed, weights)
        }
        return [row for row in wanted if row not in have]

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def complete(self, missing: Sequence, measure: Callable[..., dict], line: Callable[[dict], str]) -> None:
        """Measure rows one by one, each kept and told as soon as it is there."""
        for number, wish in enumerate(missing, 1):
            self.add(measure(wish))
            print(f"{number} of {len(missing)}: {line(self.rows[-1])}", flush=True)

    def of(self, weights: str) -> dict[Wanted, dict]:
        """The newest row of each kind for these weights."""
        return {
            Wanted(row["setting"], row["stories"], row["frames"]): row for row in self.rows if row["weights"] == weights
        }


def share(row: dict, name: str) -> str:
    """A share, decibels or pixels, with its 95 % interval."""
    if row.get(name) is None:
        return "-"
    digits = 1 if row[f"{name}_high"] > 1 else 2
    low, high = (f"{row[f'{name}_{end}']:.{digits}f}" for end in ("low", "high"))
    return f"{row[name]:.{digits}f} ({low} to {high})"


def words(row: dict, names: Iterable[str]) -> str:
    """Those figures of a row that it has, in a line of text."""
    return f"{row['setting']} ({row['stories']}): " + ", ".join(
        f"{name} {share(row, name)}" for name in names if name in row
    )


def markdown(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    names = [column.replace("_", " ") for column in columns]
    head, *others = ("| " + " | ".join(cells) + " |" for cells in (names, *rows))
    return [head, "|" + "---|" * len(names), *others]


def cells(row: dict, name: str | None = None) -> list[str]:
    """Of a row: `name` or else the setting, and its figures."""
    shares = [share(row, column) for column in COLUMNS]
    return [name or row["setting"], *shares, f"{row['diversity']:.2f}", f"{row['stray']:.2f}"]


def table(first: str, rows: Iterable[Sequence[str]]) -> list[str]:
    return markdown([first, *COLUMNS, "diversity", "stray"], rows)


def main_table(rows: dict[Wanted, dict]) -> list[str]:
    return table("setting", [cells(rows[Wanted(setting)]) for setting in MAIN if Wanted(setting) in rows])


def factors_table(rows: dict[Wanted, dict]) -> list[str]:
    found = ((factor, name) for factor, names in FACTORS.items() for name in names if Wanted(name) in rows)
    return table("factor, setting", [cells(rows[Wanted(name)], f"{factor}: {name}") for factor, name in found])


def lengths_table(rows: dict[Wanted, dict]) -> list[str]:
    wishes = (
        Wanted(name, stories, frames) for frames, stories in {FRAMES: STORIES, **LONGER}.items() for name in LENGTHS
    )
    lines = [(wish, f"{wish.frames}: {wish.setting} (n {wish.stories})") for wish in wishes if wish in rows]
    return table("frames, setting", [cells(rows[wish], name) for wish, name in lines])


def models_table(rows: Rows) -> list[str]:
    """The main rows of every UNet there is: other seeds, and the control without twins."""
    newest = {row["model"]: row["weights"] for row in rows.rows}
    found = ((model, rows.of(weights)) for model, weights in sorted(newest.items()))
    wishes = [Wanted(name, stories) for stories in (STORIES, STORIES_OF_OTHERS) for name in MAIN]
    lines = (
        (f"{model}: {wish.setting} (n {wish.stories})", of[wish])
        for model, of in found
        for wish in wishes
        if wish in of
    )
    return table("UNet, setting", [cells(row, name) for name, row in lines])


def fill(path: Path, name: str, lines: list[str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`. Raises ValueError for a document without."""
    text = path.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    filled, count = re.subn(
        re.escape(start) + ".*?" + re.escape(end), lambda _: start + "\n".join(lines) + "\n" + end, text, flags=re.S
    )
    if count != 1:
        raise ValueError(
            f"{path} has {count} places for {name}; one pair of <!-- {name} --> and <!-- /{name} --> is expected."
        )
    path.write_text(filled, encoding="utf-8")
