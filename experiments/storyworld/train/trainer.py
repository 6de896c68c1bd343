"""One training loop for every stage: seeded, resumable, with a moving average of the weights, and a curve."""

import contextlib
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from storyreel.core.training import autocast, descend, follow, generator_of, optimizer_of, rate_at
from torch import Tensor, nn

SAVE_SECONDS = 120
PRINT_SECONDS = 15


@dataclass(frozen=True)
class Plan:
    """How a stage trains. ema: decay of the moving average, which is what ships."""

    steps: int
    batch: int
    rate: float
    ema: float = 0.999
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 0
    stop_after: int | None = field(default=None, repr=False, compare=False)  # no part of the recipe


# loss(step, generator) -> what to minimise, and figures to report beside it.
Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_memory() -> None:
    """Have glibc keep what tensors give back: else a fifth of a step goes into getting fresh pages from the kernel."""
    with contextlib.suppress(OSError, AttributeError):
        tune = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((-3, 32 << 20), (-1, 2**31 - 1), (-2, 64 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_, M_TOP_PAD
            tune(option, value)


class Stopped(Exception):
    """A stage was told to stop; it goes on from here when it is started again."""


def train(name: str, modules: nn.ModuleDict, loss: Loss, plan: Plan, folder: Path, made_of: str = "") -> list[dict]:
    """Train `modules`, leave the averaged weights in them, and return the log (also in folder/name.jsonl).

    What a step sees is a function of the seed and the step's number, so a run that was stopped goes on from
    folder/name.pt and ends as if it had not been. made_of: a name of whatever else the loss is made of; a state of
    something else is left behind.
    """
    keep_memory()
    folder.mkdir(parents=True, exist_ok=True)
    state_path, log_path = folder / f"{name}.pt", folder / f"{name}.jsonl"
    weights = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    average = [weight.detach().clone() for weight in weights]
    optimizer = optimizer_of(weights, plan.rate, plan.weight_decay)
    first, spent = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        if (state["plan"], state.get("made_of", "")) == (repr(plan), made_of):
            modules.load_state_dict(state["weights"])
            optimizer.load_state_dict(state["optimizer"])
            average = [tensor.to(weight.device) for tensor, weight in zip(state["average"], weights, strict=True)]
            first, spent = state["step"], state["seconds"]
            print(f"{name}: going on from step {first}")
    log = [row for row in _read(log_path) if row["step"] < first]

    def save(step: int) -> None:
        state = {
            "plan": repr(plan),
            "made_of": made_of,
            "weights": modules.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
            "seconds": spent + time.monotonic() - started,
        }
        part = state_path.with_suffix(".part")
        torch.save(state, part)
        part.replace(state_path)
        log_path.write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")

    modules.train()
    started = printed = saved = time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    for step in range(first, plan.steps):
        with autocast(device()):
            value, figures = loss(step, generator_of(plan.seed, step))
        descend(value, optimizer, rate_at(step, plan.rate, plan.warmup, plan.steps))
        follow(average, weights, step, plan.ema)

        for key, figure in {"loss": value.item(), **figures}.items():
            sums[key] = sums.get(key, 0.0) + float(figure)
        count += 1
        now = time.monotonic()
        if now - printed > PRINT_SECONDS or step + 1 == plan.steps:
            means = {key: total / count for key, total in sums.items()}
            log.append({"step": step, **means})
            left = (now - started) / (step + 1 - first) * (plan.steps - step - 1)
            shown = "  ".join(f"{key} {mean:.4f}" for key, mean in means.items())
            print(f"{name}: step {step + 1} of {plan.steps}, {left / 60:.1f} min left, {shown}", flush=True)
            printed, sums, count = now, {}, 0
        stop = plan.stop_after is not None and step + 1 >= plan.stop_after
        if now - saved > SAVE_SECONDS or step + 1 == plan.steps or stop:
            save(step + 1)
            saved = now
        if stop:
            raise Stopped(f"{name}: stopped after step {step + 1} of {plan.steps}")
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
    modules.eval()
    _draw_curve(name, log, folder / f"{name}.png")
    return log


def _read(path: Path) -> list[dict]:
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return []


def _draw_curve(name: str, log: list[dict], path: Path) -> None:
    if not log:
        return
    from matplotlib.figure import Figure

    keys = [key for key in log[-1] if key != "step"]
    figure = Figure(figsize=(8, 2.4 * len(keys)), layout="constrained")
    axes = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
    for axis, key in zip(axes, keys, strict=True):
        axis.plot([row["step"] for row in log], [row[key] for row in log])
        axis.set_ylabel(key)
        axis.grid(alpha=0.3)
    axes[0].set_title(f"Storyworld: {name}")
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=90)
