"""The rows that were measured, as JSON lines, and the Markdown tables that documents show of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

Key = tuple[str, int, int]  # setting, number of examples, frames of an example


class Rows:
    """The file of rows. A row belongs to the weights whose hash it carries."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def missing(self, settings: Iterable, seed: int, weights: str) -> list:
        """Those of the settings that no row of this seed and these weights has."""
        mine = [row for row in self.rows if (row["seed"], row["weights"]) == (seed, weights)]
        have = {_key(row) for row in mine} | {(row["setting"], 0, row["frames"]) for row in mine}  # 0: all there are
        return [setting for setting in settings if setting.key not in have]

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, weights: str) -> dict[Key, dict]:
        """The newest row of each kind for these weights."""
        return {_key(row): row for row in self.rows if row["weights"] == weights}


def _key(row: dict) -> Key:
    return row["setting"], row["stories"], row["frames"]


def share(row: dict, name: str) -> str:
    """A share, decibels or pixels, with its 95 % interval."""
    if row.get(name) is None:
        return "-"
    digits = 1 if row[f"{name}_high"] > 1 else 2
    low, high = (f"{row[f'{name}_{end}']:.{digits}f}" for end in ("low", "high"))
    return f"{row[name]:.{digits}f} ({low} to {high})"


def describe(row: dict) -> str:
    """A row in a line of text: every result that has an interval."""
    names = [name for name in row if f"{name}_low" in row]
    return f"{row['setting']} ({row['stories']}): " + ", ".join(f"{name} {share(row, name)}" for name in names)


def markdown(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    names = [column.replace("_", " ") for column in columns]
    head, *others = ("| " + " | ".join(cells) + " |" for cells in (names, *rows))
    return [head, "|" + "---|" * len(names), *others]


def table(
    rows: Mapping[Key, dict],
    settings: Iterable,
    columns: Sequence[str],
    first: Sequence[str] = ("setting", "n"),
    label: Callable[..., list[str]] = lambda setting: [setting.name, str(setting.count)],
) -> list[str]:
    """A table of those settings that were measured. label(setting): the cells under `first`."""
    found = [(setting, rows[setting.key]) for setting in settings if setting.key in rows]
    lines = ([*label(setting), *(share(row, name) for name in columns)] for setting, row in found)
    return markdown([*first, *columns], lines)


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
