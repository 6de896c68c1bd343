"""How every stage trains: by the pack's own loop, with its progress printed, and a log and a curve beside its state."""

import contextlib
import ctypes
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from storyreel.core.training import BuildOptimizer, TrainConfig
from storyreel.core.training import train as run
from torch import Tensor, nn

from ..report.plots import Panel, plot

PRINT_SECONDS = 15

# loss(generator) -> what to minimize, or that and results to report
Loss = Callable[[torch.Generator], Tensor | tuple[Tensor, dict[str, float]]]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_memory() -> None:
    """Have glibc keep what tensors give back: else a fifth of a step goes into getting fresh pages from the kernel."""
    with contextlib.suppress(OSError, AttributeError):
        tune = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((-3, 32 << 20), (-1, 2**31 - 1), (-2, 64 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_, M_TOP_PAD
            tune(option, value)


class Stopped(Exception):
    """A stage was stopped as asked; it resumes there when it is started again."""


class Progress:
    """Called before every step: prints how far a training is, and stops it after a step."""

    def __init__(self, name: str, steps: int, stop_after: int | None = None):
        self.name, self.steps, self.stop_after = name, steps, stop_after
        self._started: tuple[int, float] | None = None
        self._printed = 0.0

    def __call__(self, step: int) -> None:
        if step == self.stop_after and step < self.steps:
            raise Stopped(f"{self.name}: stopped after step {step} of {self.steps}")
        now = time.monotonic()
        first, started = self._started = self._started or (step, now)
        if now - self._printed > PRINT_SECONDS:
            left = (now - started) / max(1, step - first) * (self.steps - step)
            print(f"{self.name}: step {step} of {self.steps}, {left / 60:.1f} min left", flush=True)
            self._printed = now


def train(
    name: str,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    config: TrainConfig,
    folder: Path,
    made_of: str = "",
    stop_after: int | None = None,
    build_optimizer: BuildOptimizer | None = None,
) -> None:
    """Train modules, leave the averaged weights in them, and write the log (folder/name.jsonl) and its curve.

    A run that was stopped resumes from its state in the folder, and ends as if it had not been. A finished one does,
    too, at once: a stage may have several. made_of: a name of whatever else the loss is made of; a state of something
    else is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of = hashlib.sha256(repr((config, made_of)).encode()).hexdigest()[:8]
    state = folder / f"{name}_{of}.state"
    if state.exists():
        print(f"{name}: resuming")
    trained, progress = nn.ModuleDict(modules), Progress(name, config.steps, stop_after)
    average, log = run(
        trained,
        lambda _, generator: loss(generator),
        config,
        state,
        lambda _: {},
        progress,
        keep_state=True,
        build_optimizer=build_optimizer,
    )
    trained.load_state_dict(average.state_dict())
    trained.eval()
    write_log(name, log, folder)


def write_log(name: str, log: list[dict], folder: Path) -> None:
    """As JSON lines, and as curves of all results."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    names, steps = [key for key in log[-1] if key != "step"], [row["step"] for row in log]
    print(f"{name}: " + ", ".join(f"{key} {log[-1][key]:.4g}" for key in names), flush=True)
    lines = {key: (steps, [row[key] for row in log]) for key in names}
    plot([Panel(lines, axes=dict(xlabel="step", yscale="log", title=f"Storyworld: {name}"))], folder / f"{name}.png")
