"""Reading a bank in a sampling run: the tokens that each layer reads, projected by the layer itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch
from comfy.utils import get_attr
from torch import Tensor

from ...core.attention import draws
from ...core.attention.bank import Bank, Recording
from ...core.attention.consistent import Phase, Settings
from .unet_blocks import Layer, networks_of

# Tokens [m, channels] of images of a bank, by their place in it.
Tokens = dict[int, Tensor]


@dataclass(frozen=True)
class Read:
    """What a call reads: a layer in a step of the run, for one cond, on one device."""

    phase: Phase
    step: float
    layer: int
    cond: int
    device: torch.device


@dataclass
class BankReader:
    """A bank as one run reads it.

    networks: the network of each device that computes. layers: those that may read, by number. steps: see
    `_recorded_steps`; the layers of a step ask for the same ones again and again. used: whether any layer has read
    tokens.
    """

    bank: Bank
    settings: Settings
    networks: dict[torch.device, Any]
    layers: dict[int, Layer]
    ahead: "dict[Read, Transfer]" = field(default_factory=dict)
    steps: dict[tuple[Phase, float, int], dict[Recording, float]] = field(default_factory=dict)
    used: bool = False

    @classmethod
    def of(cls, bank: Bank, settings: Settings, guider, layers: dict[int, Layer]) -> "BankReader":
        return cls(bank, settings, networks_of(guider), layers)

    def reads(self, phase: Phase, step: float, layer: int) -> bool:
        """Whether a layer reads the bank in this step of the run."""
        return bool(self._recorded_steps(phase, step, layer))

    def _recorded_steps(self, phase: Phase, step: float, layer: int) -> dict[Recording, float]:
        """The step of each recording that a layer reads, of those that it reads.

        The coin is the recording's. So a lower probability than recorded reads less, and a higher one all there is.
        """
        key = (phase, step, layer)
        if key not in self.steps:
            settings, found = self.settings, {}
            chances = {Phase.EARLY: settings.layer_prob_early, Phase.LATE: settings.layer_prob_late}
            for recording in self.bank.recordings if phase in chances else ():
                nearest = recording.nearest(step)
                if nearest is not None and draws.coin(recording.origin.seed, nearest, layer) < chances[phase]:
                    found[recording] = nearest
            self.steps[key] = found
        return self.steps[key]

    def read(
        self, phase: Phase, step: float, layer: int, cond: int, rows: Sequence[Sequence[int]], heads: int, like: Tensor
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values [m, heads, d] of the images that the rows of a batch read, without images that have none.

        rows: images of each row. like: a tensor of the type and on the device that the layer computes with.
        """
        read = Read(phase, step, layer, cond, like.device)
        tokens = self._tokens(read, tuple(sorted({place for row in rows for place in row})))
        if not tokens:
            return {}
        self.used = True
        network = self.networks.get(like.device) or next(iter(self.networks.values()))
        attention: Any = get_attr(network, self.layers[layer].path)
        joined = torch.cat([part.to(like.dtype) for part in tokens.values()])[None]
        keys, values = (project(joined)[0].unflatten(-1, (heads, -1)) for project in (attention.to_k, attention.to_v))
        lengths = [len(part) for part in tokens.values()]
        return dict(zip(tokens, zip(keys.split(lengths), values.split(lengths), strict=True), strict=True))

    def _tokens(self, read: Read, images: tuple[int, ...]) -> Tokens:
        """The tokens of these images on the device.

        From the memory of the CPU they come one layer ahead: while a layer computes, those of the next are copied.
        """
        transfer = self.ahead.pop(read, None)
        if transfer is None or transfer.images != images:
            transfer = self._transfer(read, images)
        found = transfer.finish()
        self.ahead = {key: kept for key, kept in self.ahead.items() if key.step == read.step}
        if transfer.stream is not None and (following := self._next(read)) is not None:
            self.ahead[following] = self._transfer(following, images)
        return found

    def _next(self, read: Read) -> Read | None:
        later = (layer for layer in sorted(self.layers) if layer > read.layer)
        layer = next((layer for layer in later if self.reads(read.phase, read.step, layer)), None)
        return None if layer is None else Read(read.phase, read.step, layer, read.cond, read.device)

    def _transfer(self, read: Read, images: tuple[int, ...]) -> "Transfer":
        pixels = self.layers[read.layer].pixels
        found, rate = {}, self.settings.rate_at(pixels)
        steps = self._recorded_steps(read.phase, read.step, read.layer)
        for place, (recording, own) in enumerate(self.bank.images):
            if place in images and recording in steps:
                tokens = recording.read(own, steps[recording], pixels, read.layer, read.cond, rate)
                if tokens is not None and len(tokens):
                    found[place] = tokens
        return Transfer.begin(found, images, read.device)


@dataclass(frozen=True)
class Transfer:
    """Tokens on their way to a device. stream: the one that copies; None = they are there."""

    tokens: Tokens
    images: tuple[int, ...]
    device: torch.device
    stream: object | None

    @classmethod
    def begin(cls, tokens: Tokens, images: tuple[int, ...], device: torch.device) -> "Transfer":
        away = [part for part in tokens.values() if part.device != device]
        stream = comfy.model_management.get_offload_stream(device) if away else None
        moved = {
            place: comfy.model_management.cast_to(part, None, device, non_blocking=stream is not None, stream=stream)
            for place, part in tokens.items()
        }
        return cls(moved, images, device, stream)

    def finish(self) -> Tokens:
        comfy.model_management.sync_stream(self.device, self.stream)
        return self.tokens
