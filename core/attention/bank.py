"""Banks: tokens of characters that one sampling run records and other runs read.

StoryDiffusion's recommended program (arXiv 2405.01434, section 3.1; its "write" and "read" phases) keeps the sampled
self-attention tokens of a character's first images and extends the keys and values of later images with them, so a
story has any length in fixed memory. As there, tokens are those before the projection to keys and values, sampled per
step and level, of cond and uncond apart. The published program records every layer in every step; here only layers
that share tokens in a step are recorded, since no other is ever read.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import draws

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
LARGEST = {torch.float16: 65504.0, torch.float8_e4m3fn: 448.0}

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]


@dataclass(frozen=True, eq=False)
class BankImage:
    """An image whose tokens are in a bank.

    characters: the names it stands for. number: the frame number that keys the draws of its tokens.
    preview: uint8 [H, W, 3], for people to recognize the character by; None = there is none.
    """

    characters: frozenset[str]
    number: int
    prompt: str = ""
    preview: Tensor | None = None


@dataclass(frozen=True)
class Origin:
    """The run that a recording comes from.

    model: identifies the weights, see the host. network: the name of the model's class. sampler: its name.
    sigmas: the whole schedule. height, width: of the images in latent pixels.
    seed, sampling_rate, sampling_rate_fine: of the draws, see `consistent.Settings`.
    """

    model: str
    network: str
    sampler: str
    sigmas: tuple[float, ...]
    height: int
    width: int
    seed: int
    sampling_rate: float
    sampling_rate_fine: float

    def rate_at(self, pixels: int) -> float:
        """The rate of the level whose tokens span so many pixels."""
        return draws.rate_at(pixels, self.sampling_rate, self.sampling_rate_fine)


@dataclass(frozen=True)
class Level:
    """Layers of equal resolution: each token spans `pixels`, an image has `tokens` of `channels` values."""

    pixels: int
    tokens: int
    channels: int


@dataclass(eq=False)
class Recording:
    """What one run recorded.

    layers: {(step, pixels): the layers that were recorded, ascending}. A step is named by its noise level, see
        `schedule.step_of`.
    indices: {(image, step, pixels): token numbers [m], int32, ascending}.
    tokens: {(image, step, pixels, cond): [layers, m, channels]}. cond: 0 cond, 1 uncond.
    """

    origin: Origin
    images: tuple[BankImage, ...]
    levels: dict[int, Level] = field(default_factory=dict)
    layers: dict[tuple[float, int], tuple[int, ...]] = field(default_factory=dict)
    indices: dict[tuple[int, float, int], Tensor] = field(default_factory=dict)
    tokens: dict[tuple[int, float, int, int], Tensor] = field(default_factory=dict)

    def copy(self) -> "Recording":
        """A recording of the same tensors, which may get more."""
        return replace(
            self,
            levels=dict(self.levels),
            layers=dict(self.layers),
            indices=dict(self.indices),
            tokens=dict(self.tokens),
        )

    @property
    def steps(self) -> list[float]:
        """Noise levels of the recorded steps, falling."""
        return sorted({step for step, _ in self.layers}, reverse=True)

    @property
    def conds(self) -> set[int]:
        return {cond for *_, cond in self.tokens}

    @property
    def characters(self) -> frozenset[str]:
        return frozenset().union(*(image.characters for image in self.images))

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tokens.values())

    def nearest(self, step: float) -> float | None:
        """The recorded step whose noise level is nearest to that of a reading run; None without any step."""
        return min(self.steps, key=lambda own: abs(own - step), default=None)

    def read(self, image: int, step: float, pixels: int, layer: int, cond: int, rate: float = 1.0) -> Tensor | None:
        """An image's tokens [m, channels] as stored; None where there are none.

        step: one of `steps`. rate: below the recorded one, as many as would have been drawn at that rate.
        """
        layers, stored = self.layers.get((step, pixels), ()), self.tokens.get((image, step, pixels, cond))
        if stored is None or layer not in layers or not stored.shape[1]:
            return None
        tokens = stored[layers.index(layer)]
        if rate >= self.origin.rate_at(pixels):
            return tokens
        drawn = draws.sample_each(
            self.origin.seed, step, pixels, self.images[image].number, self.levels[pixels].tokens, rate
        )
        kept = torch.isin(self.indices[image, step, pixels], drawn.int())
        return tokens[kept.to(tokens.device)]


class Bank:
    """Recordings, of one run or of several.

    finished: no run has yet to record into it. node: the id of the node whose MODEL records; "" = none does.
    """

    def __init__(self, recordings: Iterable[Recording] = (), *, finished: bool = True, node: str = ""):
        self.recordings = list(recordings)
        self.finished, self.node = finished, node

    @property
    def images(self) -> list[tuple[Recording, int]]:
        """Every image, as a recording and its place there. A place in this list names an image of the bank."""
        return [(recording, place) for recording in self.recordings for place in range(len(recording.images))]

    @property
    def characters(self) -> frozenset[str]:
        return frozenset().union(*(recording.characters for recording in self.recordings))

    @property
    def bytes(self) -> int:
        return sum(recording.bytes for recording in self.recordings)

    def images_of(self, names: frozenset[str] | None) -> tuple[int, ...]:
        """The images that stand for any of these characters, by place in `images`; None = all."""
        found = enumerate(self.images)
        return tuple(
            place for place, (recording, own) in found if names is None or recording.images[own].characters & names
        )


class Recorder:
    """Fills a recording while a run samples.

    Every token is stored once: a second call of a step, as second-order samplers make, changes nothing.

    planned: the layers of a level that will share in a step, ascending. dtype: what tokens are stored as.
    allocate: makes an empty tensor of a shape and type where tokens are to be kept.
    """

    def __init__(
        self,
        recording: Recording,
        dtype: torch.dtype,
        planned: Callable[[float, int], Sequence[int]],
        allocate: Allocate = lambda shape, dtype: torch.empty(shape, dtype=dtype),
    ):
        self.recording, self.dtype, self.planned, self.allocate = recording, dtype, planned, allocate
        self._stored: dict[tuple[int, float, int, int], set[int]] = {}

    def add(
        self, image: int, step: float, pixels: int, layer: int, cond: int, hidden: Tensor, draw: Callable[[], Tensor]
    ) -> None:
        """Store the tokens of an image. hidden: all of them, [N, channels]. draw: which are kept, [m], ascending."""
        recording, slot = self.recording, (image, step, pixels, cond)
        stored = self._stored.setdefault(slot, set())
        if layer in stored:
            return
        if (image, step, pixels) not in recording.indices:
            recording.levels.setdefault(pixels, Level(pixels, *hidden.shape))
            recording.layers.setdefault((step, pixels), tuple(self.planned(step, pixels)))
            recording.indices[image, step, pixels] = draw().int()
        index, layers = recording.indices[image, step, pixels], recording.layers[step, pixels]
        if slot not in recording.tokens:
            recording.tokens[slot] = self.allocate((len(layers), len(index), hidden.shape[1]), self.dtype)
        kept = hidden.index_select(0, index.to(hidden.device, torch.int64))
        recording.tokens[slot][layers.index(layer)].copy_(store(kept, self.dtype))
        stored.add(layer)

    def finish(self) -> None:
        """Drop layers that the run did not compute for every image and cond that it recorded."""
        recording = self.recording
        for step, pixels in {slot[1:3] for slot in self._stored}:
            planned = recording.layers[step, pixels]
            slots = [slot for slot in self._stored if slot[1:3] == (step, pixels)]
            kept = tuple(layer for layer in planned if all(layer in self._stored[slot] for slot in slots))
            if kept == planned:
                continue
            rows = [planned.index(layer) for layer in kept]
            recording.layers[step, pixels] = kept
            for slot in slots:
                recording.tokens[slot] = recording.tokens[slot][rows]


def store(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Tokens as a bank keeps them: values beyond the number format are its largest."""
    largest = LARGEST.get(dtype)
    return (tokens if largest is None else tokens.clamp(-largest, largest)).to(dtype)


def merge(banks: Iterable[Bank]) -> Bank:
    """A bank with the images of several, each once."""
    recordings = dict.fromkeys(recording for bank in banks for recording in bank.recordings)
    return Bank(recordings)
