"""What the frames of a sampling run borrowed: the share of its attention that a frame gave to each image, by layer and
step. How a share is measured: see `shares`."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

CONDS = ("cond", "uncond")


@dataclass(frozen=True)
class MapLayer:
    """A layer that may share tokens. group: what it is shown with: its level, or its kind of block."""

    name: str
    group: str


@dataclass(eq=False)
class AttentionMap:
    """What one run borrowed.

    frames: names of the images of the batch. stored: names of the images of the bank.
    layers: those that may share, by number. steps: noise levels of the run, falling; see `schedule.step_of`.
    conds: that the run computed: 0 cond, 1 uncond.
    sums: {(step, layer, cond): [B, B + images of the bank], float32}, of all calls. calls: how many there were for each
        row. A layer that shared nothing in a step is in neither.
    """

    frames: tuple[str, ...]
    stored: tuple[str, ...]
    layers: Mapping[int, MapLayer]
    steps: tuple[float, ...]
    conds: set[int] = field(default_factory=set)
    sums: dict[tuple[float, int, int], Tensor] = field(default_factory=dict)
    calls: dict[tuple[float, int, int], Tensor] = field(default_factory=dict)

    def continued(self, steps: Sequence[float]) -> "AttentionMap":
        """A map that begins with this run and gets these steps of the next."""
        joined = tuple(dict.fromkeys((*self.steps, *steps)))
        return replace(self, steps=joined, conds=set(self.conds), sums=dict(self.sums), calls=dict(self.calls))

    def add(self, step: float, layer: int, cond: int, rows: Sequence[int], shares: Tensor) -> None:
        """A call of a layer. rows: the images of the call, by place in the batch. shares: see `Shares.sums`."""
        key, index, images = (step, layer, cond), torch.tensor(rows), len(self.frames)
        columns = torch.cat([index, torch.arange(images, images + len(self.stored))])
        sums, calls = torch.zeros(images, images + len(self.stored)), torch.zeros(images)
        sums[index[:, None], columns] = shares.float()
        calls[index] = 1
        # never in place: a run that this one continues has the same tensors
        self.sums[key] = self.sums[key] + sums if key in self.sums else sums
        self.calls[key] = self.calls[key] + calls if key in self.calls else calls

    def shares(
        self, cond: int, layers: Collection[int] | None = None, steps: Collection[float] | None = None
    ) -> Tensor:
        """[B, B + images of the bank], float64: mean over layers and steps, each counting once. Rows add up to 1.

        layers, steps: None = all.
        """
        pairs = [
            (step, layer)
            for step in (self.steps if steps is None else steps)
            for layer in (self.layers if layers is None else layers)
        ]
        own = torch.eye(len(self.frames), len(self.frames) + len(self.stored), dtype=torch.float64)
        total = torch.zeros_like(own)
        for step, layer in pairs:
            sums = self.sums.get((step, layer, cond))
            if sums is None:
                total += own
            else:
                calls = self.calls[step, layer, cond][:, None]
                total += torch.where(calls > 0, sums.double() / calls.clamp(min=1), own)
        return total / len(pairs)

    def borrowed(self, cond: int) -> Tensor:
        """[layers, steps], float64: what a frame gave to all other images, as the mean over the frames."""
        grid = [
            [1 - self.shares(cond, [layer], [step]).diagonal().mean().item() for step in self.steps]
            for layer in self.layers
        ]
        return torch.tensor(grid, dtype=torch.float64)

    def groups(self) -> dict[str, list[int]]:
        """The layers by group; those of a single group in thirds."""
        found: dict[str, list[int]] = {}
        for number, layer in self.layers.items():
            found.setdefault(layer.group, []).append(number)
        if len(found) > 1:
            return found
        parts = thirds(list(self.layers))
        return {span(self.layers[part[0]].name, self.layers[part[-1]].name): part for part in parts}


def thirds(values: Sequence) -> list[list]:
    """The values in at most three parts of equal length, in order."""
    count, parts = len(values), min(3, len(values))
    return [list(values[count * i // parts : count * (i + 1) // parts]) for i in range(parts)]


def span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def frame_name(number: int, names: Collection[str] | None) -> str:
    """The name of a frame: its number, counted from 1, and who is in it. number: from 0. names: None = no story."""
    if names is None:
        return str(number + 1)
    shown = " and ".join(sorted(names)) if names else "[NC]"
    return f"{number + 1} {shown}".rstrip()


def bank_names(images: Sequence[Collection[str]]) -> tuple[str, ...]:
    """The names of a bank's images: "bank: Bob 1", "bank: Bob 2". images: the characters of each."""
    counts: Counter[str] = Counter()
    names = []
    for characters in images:
        who = " and ".join(sorted(characters)).strip()
        counts[who] += 1
        names.append(f"bank: {who} {counts[who]}" if who else f"bank: {counts[who]}")
    return tuple(names)
