"""Recording what frames borrow while a MODEL with Consistent Self-Attention is sampled, for an attention map."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.attention.attention_map import AttentionMap, MapLayer, bank_names, frame_name
from ...core.attention.bank import Bank
from ...core.attention.schedule import step_of
from ...core.story.frames import plain
from .sampling_state import CONFIG, NODE, PatchConfig, SamplingState

KEPT = 4  # runs: the halves of a split one, or a first and a second pass
CLOSE = 0.02  # of the largest value: the host may keep results in fp16 or bf16


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A finished run: its map, the noise level it ended at, and its result on the CPU."""

    map: AttentionMap
    end: float
    result: Tensor


@dataclass(eq=False)
class AttentionRecord:
    """What the latest runs of a MODEL borrowed, filled while it is sampled."""

    runs: deque[RecordedRun] = field(default_factory=lambda: deque(maxlen=KEPT))

    def map_of(self, latents: Tensor) -> AttentionMap | None:
        """The map of the run with this result; of the latest one, if another node has changed it. None without any."""
        found = [run for run in self.runs if _alike(run.result, latents)] or self.runs
        return found[-1].map if found else None

    @contextmanager
    def recording(
        self,
        config: PatchConfig,
        state: SamplingState,
        layers: Mapping[int, MapLayer],
        latents: Tensor,
        sigmas: Sequence[float],
    ) -> Iterator[list[Tensor]]:
        """The sampling run in the block is recorded. The block adds the result that it gets to the list.

        latents: that the run begins with. A run that begins with the result of another one, as of two advanced
        samplers, continues its map. A run that fails leaves none.
        """
        steps = tuple(dict.fromkeys(step_of(sigma, sigmas) for sigma in sigmas[:-1]))
        before = [run for run in self.runs if 0 < run.end == sigmas[0] and _alike(run.result, latents)]
        if before:
            begun = before[-1].map.continued(steps)
        else:
            frames = tuple(
                frame_name(frame, None if config.cast is None else config.cast[frame]) for frame in state.all_frames
            )
            begun = AttentionMap(frames, names_of(config.bank), layers, steps)
        results: list[Tensor] = []
        state.attention_map = begun
        try:
            yield results
        finally:
            state.attention_map = None
        begun.conds |= state.conds
        self.runs += (RecordedRun(begun, sigmas[-1], _on_cpu(result)) for result in results)


def record_of(model: ModelPatcher) -> AttentionRecord:
    """Where the runs of a MODEL are recorded. Raises ValueError for a MODEL that records none."""
    config = model.model_options["transformer_options"].get(CONFIG)
    if config is None:
        raise ValueError(
            f"model has no {NODE}, or its strength is 0; connect the MODEL that comes from this node and goes to the "
            "sampler."
        )
    if config.attention is None:
        raise ValueError(f"record_attention of {NODE} is off, so nothing is recorded; switch it on.")
    return config.attention


def names_of(bank: Bank | None) -> tuple[str, ...]:
    """The names of the images of a bank, in a map."""
    images = () if bank is None else bank.images
    return bank_names([recording.images[place].characters for recording, place in images])


def _alike(result: Tensor, latents: Tensor) -> bool:
    if getattr(latents, "is_nested", False) or result.shape != latents.shape:
        return False
    return bool((result - _on_cpu(latents)).abs().max() <= CLOSE * result.abs().max())


def _on_cpu(latents: Tensor) -> Tensor:
    return plain(latents).detach().to("cpu", torch.float32)
