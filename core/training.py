"""One training loop: seeded, resumable to the last bit, with a moving average of the weights, which is the result."""

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .video.files import appearing

SAVE_SECONDS = 300
POINTS = 50  # of the log
BETAS = (0.9, 0.99)
LEAST_RATE = 0.01  # at the end of the cosine, a share of the first


@dataclass(frozen=True)
class TrainConfig:
    """ema: decay of the moving average of the weights. warmup: steps until the full learning rate."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    ema: float = 0.999
    warmup: int = 100
    weight_decay: float = 0.01


# loss(network, generator) -> what to minimize, or that and results for the log; the generator and the weights decide
Loss = Callable[[nn.Module, torch.Generator], Tensor | tuple[Tensor, dict[str, float]]]
# measure(averaged network) -> results for the log
Measure = Callable[[nn.Module], dict[str, float]]
# build(weights, learning rate, weight decay)
BuildOptimizer = Callable[[Sequence[nn.Parameter], float, float], torch.optim.Optimizer]
# watch(steps done): may raise, to stop a training that resumes here the next time
Watch = Callable[[int], None]


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose first weights are a function of the seed; the global generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def train(
    network: nn.Module,
    loss: Loss,
    config: TrainConfig,
    state: Path,
    measure: Measure,
    watch: Watch,
    keep_state: bool = False,
    build_optimizer: BuildOptimizer | None = None,
) -> tuple[nn.Module, list[dict]]:
    """(the averaged network, the log: about POINTS rows of step, mean results of `loss`, and results of `measure`)

    The network trains where its weights are; those that require no gradient stay. `state` is the file in which an
    unfinished run is kept; where it exists the run resumes from it, and ends as if it had never stopped. keep_state:
    a finished run is kept there, too. build_optimizer: of another optimizer than `optimizer_of`'s.
    """
    average = copy.deepcopy(network).eval()
    network.train()
    weights, averages = ([weight for weight in one.parameters() if weight.requires_grad] for one in (network, average))
    build_optimizer = build_optimizer or optimizer_of
    run = Run(network, average, build_optimizer(weights, config.learning_rate, config.weight_decay))
    if state.exists():
        run.read(state)
    every, saved = max(1, config.steps // POINTS), time.monotonic()
    device = next(network.parameters()).device
    while run.step < config.steps:
        try:
            watch(run.step)
        except BaseException:
            run.write(state)
            raise
        if time.monotonic() - saved > SAVE_SECONDS:
            run.write(state)
            saved = time.monotonic()
        with autocast(device):
            found = loss(network, generator_of(config.seed, run.step))
        value, results = found if isinstance(found, tuple) else (found, {})
        descend(value, run.optimizer, rate_at(run.step, config.learning_rate, config.warmup, config.steps))
        follow(averages, weights, run.step, config.ema)
        run.step += 1
        run.recent.append({"loss": value.item(), **results})
        if run.step % every == 0 or run.step == config.steps:
            means = {name: sum(row[name] for row in run.recent) / len(run.recent) for name in run.recent[0]}
            run.log.append({"step": run.step, **means, **measure(average)})
            run.recent.clear()
            if keep_state and run.step == config.steps:
                run.write(state)
    return average, run.log


class Run:
    """An unfinished training: all that it needs to resume. recent: results of the steps since the log's last row."""

    def __init__(self, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer):
        self.network, self.average, self.optimizer = network, average, optimizer
        self.step, self.recent, self.log = 0, [], []

    def write(self, path: Path) -> None:
        """The file appears under its name when it is whole, never before."""
        tensors = {f"weights.{key}": t for key, t in self.network.state_dict().items()}
        tensors |= {f"average.{key}": t for key, t in self.average.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():  # none where there was no gradient
            tensors |= {f"optimizer.{number}.{name}": moment for name, moment in moments.items()}
        run = {"step": self.step, "recent": self.recent, "log": self.log}
        with appearing(path, sum(t.numel() * t.element_size() for t in tensors.values())) as unfinished:
            save_file({key: t.contiguous() for key, t in tensors.items()}, unfinished, {"run": json.dumps(run)})

    def read(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            run = json.loads(file.metadata()["run"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dictionary
        self.step, self.recent, self.log = run["step"], run["recent"], run["log"]
        for prefix, network in (("weights.", self.network), ("average.", self.average)):
            network.load_state_dict({key: tensors[prefix + key] for key in network.state_dict()})
        state = self.optimizer.state_dict()
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                state["state"].setdefault(int(number), {})[name] = tensor
        self.optimizer.load_state_dict(state)


def generator_of(seed: int, step: int) -> torch.Generator:
    """What a step draws is a function of the seed and the step's number, so that a training can resume at any."""
    return torch.Generator().manual_seed(seed << 32 | step)


def optimizer_of(weights: Sequence[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Weights of layers decay; biases and norms do not."""
    decayed = {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": weight_decay}
    others = {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([decayed, others], lr=rate, betas=BETAS)


def rate_at(step: int, learning_rate: float, warmup: int, steps: int) -> float:
    """A short rise, then half a cosine."""
    scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return learning_rate * max(scale, LEAST_RATE)


def descend(value: Tensor, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One step down the gradient of `value`, no longer than 1."""
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
    nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()


@torch.no_grad()
def follow(averages: Sequence[Tensor], weights: Sequence[Tensor], step: int, ema: float) -> None:
    """Move averages towards the weights; quickly at first, while they are still those of the start."""
    # torch has no public name for it
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        list(averages), list(weights), 1 - min(ema, (step + 1) / (step + 10))
    )


def autocast(device: torch.device):
    """bfloat16 where it is fast: on GPUs, and on processors that multiply it."""
    fast = device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device.type, torch.bfloat16, enabled=fast and device.type in ("cuda", "cpu"))
