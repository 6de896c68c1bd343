"""What a run will record: the images, the steps and the layers, known before it starts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .bank import Level
from .consistent import Phase, Settings, layer_shares
from .schedule import Phases, step_of
from .sharing import Cast, find_anchors

UNNAMED = frozenset({""})


@dataclass(frozen=True)
class Plan:
    """layers: {(step, pixels): the layers that will be recorded, ascending}. levels: of layers. rates: by pixels."""

    layers: dict[tuple[float, int], tuple[int, ...]]
    levels: Mapping[int, Level]
    rates: dict[int, float]

    def layers_of(self, step: float, pixels: int) -> tuple[int, ...]:
        return self.layers.get((step, pixels), ())

    def includes(self, step: float, layer: int) -> bool:
        level = self.levels.get(layer)
        return level is not None and layer in self.layers_of(step, level.pixels)

    def bytes(self, images: int, conds: int, dtype: torch.dtype) -> int:
        """Expected size of the tokens."""
        values = sum(
            self.rates[pixels] * self.levels[layer].tokens * self.levels[layer].channels
            for (_, pixels), layers in self.layers.items()
            for layer in layers
        )
        return round(values * images * conds * dtype.itemsize)


def plan_recording(
    settings: Settings,
    phases: Phases,
    sigmas: Sequence[float],
    levels: Mapping[int, Level],
    step_stride: int,
    earlier: Sequence[float] = (),
) -> Plan:
    """Layers are recorded in the steps in which they share tokens.

    sigmas: the run's schedule. levels: of each layer that may share. step_stride: of so many steps that share, the
    first is recorded. earlier: noise levels of the steps before, of a run that continues another one.
    """
    rates = {level.pixels: settings.rate_at(level.pixels) for level in levels.values()}
    shared = [
        {step_of(sigma, part): phases.at(sigma) for sigma in part if phases.at(sigma) in (Phase.EARLY, Phase.LATE)}
        for part in (earlier, sigmas[:-1])
    ]
    layers = defaultdict(list)
    for step, phase in list(shared[1].items())[-len(shared[0]) % step_stride :: step_stride]:
        for layer, level in sorted(levels.items()):
            if rates[level.pixels] > 0 and layer_shares(settings, phase, step, layer):
                layers[step, level.pixels].append(layer)
    return Plan({key: tuple(found) for key, found in layers.items()}, levels, rates)


def anchors_of(
    frames: Sequence[int], cast: Cast | None, anchors: int, read: frozenset[str] = frozenset()
) -> dict[int, frozenset[str]]:
    """{row: the characters it stands for} of the rows of a batch that are recorded, in frame order.

    They are the anchors of each character, see `sharing.find_anchors`, of as many rows as there are if `anchors` is 0.
    frames: frame number of each row. cast: names shown in each frame of the story; None = all show one character.
    read: characters that are read from a bank, so they are not recorded.
    """
    rows = sorted(range(len(frames)), key=lambda row: frames[row])
    names = [UNNAMED if cast is None else cast[frames[row]] for row in rows]
    found = defaultdict(set)
    for name, places in find_anchors(names, anchors or len(rows), read).items():
        for place in places:
            found[rows[place]].add(name)
    return {row: frozenset(found[row]) for row in rows if row in found}
