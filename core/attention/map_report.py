"""An attention map as a table: numbers in percent, separated by tabs, for a spreadsheet or to read."""

from collections.abc import Iterable

from torch import Tensor

from ..text import short
from .attention_map import CONDS, AttentionMap, span, thirds

LONGEST = 40  # letters of a name


def in_words(found: AttentionMap, cond: int) -> str:
    """All matrices of a map: of the run, by group of layers, by third of the steps; and the sum by layer and step."""
    counts = f"{len(found.layers)} layers, {len(found.steps)} steps, {CONDS[cond]}"
    lines = [
        f"Share of its attention that each frame (row) gives to each image (column), in %: {counts}",
        *_matrix("The whole run", found, found.shares(cond)),
    ]
    for name, layers in found.groups().items():
        lines += _matrix(f"Layers: {name}", found, found.shares(cond, layers))
    numbers = {step: str(number) for number, step in enumerate(found.steps, 1)}
    for steps in thirds(found.steps):
        name = span(numbers[steps[0]], numbers[steps[-1]])
        lines += _matrix(f"Steps: {name}", found, found.shares(cond, steps=steps))
    lines += ["", "Borrowed by layer (row) and step (column), mean of all frames", _row("layer", numbers.values())]
    for layer, row in zip(found.layers.values(), found.borrowed(cond).tolist(), strict=True):
        lines.append(_row(layer.name, map(percent, row)))
    return "\n".join(lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _matrix(title: str, found: AttentionMap, shares: Tensor) -> list[str]:
    lines = ["", title, _row("frame", [*found.frames, *found.stored, "borrowed"])]
    for place, (name, row) in enumerate(zip(found.frames, shares.tolist(), strict=True)):
        lines.append(_row(name, [*map(percent, row), percent(1 - row[place])]))
    return lines


def _row(name: str, values: Iterable[str]) -> str:
    return "\t".join(short(text, LONGEST) for text in (name, *values))
