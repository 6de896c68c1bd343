"""DynamiCrafter's UNet at its published width on random weights, against a plain forward pass in the published order.

ours: as the pack runs it, with the host's optimized attention. plain: the same weights, attention as an explicit
softmax(Q K^T) V, text and image tokens repeated for every frame. Each form runs in a process of its own; memory is the
most that the process holds while it runs, less what it holds once the weights are loaded.
"""

import argparse
import json
import multiprocessing
import time
from dataclasses import dataclass

TOLERANCE = 2e-5  # of the two outputs, relative to the greatest element
FORMS = ("ours", "plain")
TOKENS = 77 + 16 * 16
PUBLISHED = 320  # channels of the first level


@dataclass(frozen=True)
class Case:
    """A clip of latents. channels: of the UNet's first level. dtype: "float32" or "float16"."""

    channels: int
    height: int
    width: int
    frames: int
    device: str
    dtype: str

    def __str__(self) -> str:
        width = "" if self.channels == PUBLISHED else f"{self.channels} channels, "
        return f"{width}{self.height}x{self.width}, {self.frames} frames, {self.device} {self.dtype}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--latent", type=int, nargs=2, default=[40, 64], metavar=("H", "W"), help="its sides")
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8], help="of the clip")
    parser.add_argument("--channels", type=int, default=PUBLISHED, help="of the first level; less to try it out")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, help="both, to compare them")
    parser.set_defaults(rounds=2)


def run(options: argparse.Namespace) -> None:
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for frames in options.frames:
        case = Case(options.channels, *options.latent, frames, device, "float32" if device == "cpu" else "float16")
        row = measure(case, options.forms, options.rounds)
        print(json.dumps(row) if options.json else table(row), flush=True)


def measure(case: Case, forms: list[str], rounds: int) -> dict:
    """Run the forms in turns, `rounds` times each."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for form in forms:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, case, form), daemon=True)
        process.start()
        workers[form] = here
        here.recv()  # loaded; the next one loads then, so that their peaks do not meet
    results = {form: [] for form in forms}
    for _ in range(rounds):
        for form, pipe in workers.items():
            pipe.send("run")
            results[form].append(pipe.recv())
    profiles = {}
    for form, pipe in workers.items():
        pipe.send("profile")
        profiles[form] = pipe.recv()
        pipe.send("stop")
    row = {"case": str(case)}
    for form in FORMS:
        runs = results.get(form)
        row[f"{form}_seconds"] = min(run["seconds"] for run in runs) if runs else None
        row[f"{form}_peak_bytes"] = max(run["bytes"] for run in runs) if runs else None
        row[f"{form}_profile"] = profiles.get(form)
    if len(forms) == 2:
        ours, plain = (results[form][0]["output"] for form in FORMS)
        difference = ((ours - plain).abs().max() / plain.abs().max()).item()
        assert difference <= (TOLERANCE if case.dtype == "float32" else 2e-2), f"the outputs differ by {difference}"
        row["difference"] = difference
        row["floor"] = floor(profiles)
    return row


def floor(profiles: dict[str, dict[str, float]]) -> float:
    """The least share of plain's time that any order of operations can reach: what both forms must compute, that is
    convolutions and linear layers as plain takes for them, and nothing else."""
    plain = profiles["plain"]
    return (plain["convolution"] + plain["linear"]) / sum(plain.values())


def table(row: dict) -> str:
    lines = [row["case"]]
    for form in FORMS:
        if row[f"{form}_seconds"] is not None:
            shares = ", ".join(f"{name} {seconds:.2f}" for name, seconds in row[f"{form}_profile"].items())
            size = row[f"{form}_peak_bytes"] / 2**20
            lines.append(f"  {form:<6}{row[f'{form}_seconds']:>9.2f} s{size:>9.0f} MB   seconds by kind: {shares}")
    if "floor" in row:
        time_ratio = row["ours_seconds"] / row["plain_seconds"]
        memory_ratio = row["ours_peak_bytes"] / row["plain_peak_bytes"]
        lines.append(
            f"  ours / plain: time {time_ratio:.2f}, memory {memory_ratio:.2f}; convolutions and linear layers alone "
            f"are {row['floor']:.2f} of plain's time; the outputs differ by {row['difference']:.1e}"
        )
    return "\n".join(lines)


def work(pipe, case: Case, form: str) -> None:
    """A process that holds one form and runs it on each message "run"."""
    import environment
    import pack
    import torch

    pack.load_host(environment.find_host())
    pack.load_pack()
    torch.manual_seed(0)
    unet, inputs = build(case, form)
    memory = Memory(case.device)
    pipe.send("loaded")
    with torch.inference_mode():
        while (order := pipe.recv()) != "stop":
            if order == "profile":
                pipe.send(profile(lambda: unet(*inputs), case.device))
                continue
            memory.start()
            started = time.perf_counter()
            output = unet(*inputs)
            if case.device != "cpu":
                torch.cuda.synchronize()
            pipe.send(
                {
                    "seconds": time.perf_counter() - started,
                    "bytes": memory.peak(),
                    "output": output.float().cpu(),
                }
            )
            del output


def build(case: Case, form: str):
    """(the UNet, its inputs), equal in every process."""
    import torch
    from comfy.ldm.modules.attention import optimized_attention
    from storyreel.core.networks.dynamicrafter.config import UNetConfig
    from storyreel.core.networks.dynamicrafter.unet import UNet
    from storyreel.core.networks.ops import Ops

    dtype = getattr(torch, case.dtype)
    with torch.device("meta"):
        attention = optimized_attention if form == "ours" else attend_explicitly
        unet = UNet(UNetConfig(model_channels=case.channels), Ops(attention=attention))
    unet = unet.to_empty(device=case.device).to(dtype).eval()
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).to(case.device, dtype)
    for name, weight in unet.named_parameters():
        fill(weight.data, name, noise)
    if form == "plain":
        repeat_context(unet, case.frames)

    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(case.device, dtype)

    x = random(1, unet.config.in_channels, case.frames, case.height, case.width)
    times = torch.tensor([500], device=case.device)
    return unet, (x, times, random(1, TOKENS, unet.config.context_dim))


def fill(weight, name: str, noise) -> None:
    """Random weights of about unit gain, without the time that 1.4 thousand million draws would take."""
    flat = weight.flatten()
    for start in range(0, len(flat), len(noise)):
        part = flat[start : start + len(noise)]
        part.copy_(noise[: len(part)])
    if weight.ndim > 1:
        weight.div_(weight[0].numel() ** 0.5)
    else:
        weight.mul_(0.02).add_(float(name.endswith("weight")))


def attend_explicitly(q, k, v, heads: int):
    """softmax(Q K^T / sqrt(d)) V in the published order: heads apart, every score in memory."""
    batch, _, width = q.shape
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1).contiguous() for t in (q, k, v))
    scores = (q @ k.mT) * (width // heads) ** -0.5
    out = scores.softmax(-1) @ v
    return out.unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)


def repeat_context(unet, frames: int) -> None:
    """Give every frame a copy of its own of the text and of tokens that are not its own already."""
    from storyreel.core.networks.blocks import SpatialTransformer

    def repeat(module, arguments):
        x, *contexts, strength = arguments
        contexts = [context.repeat_interleave(len(x) // len(context), 0) for context in contexts]
        return (x, *contexts, strength)

    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            module.register_forward_pre_hook(repeat)


class Memory:
    """The peak memory of this process since `start`, less its memory at creation."""

    def __init__(self, device: str):
        self.device = device
        self.loaded = self._now("VmRSS")

    def start(self):
        if self.device == "cpu":
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # forget the peak so far
        else:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return self._now("VmHWM") - self.loaded

    def _now(self, name: str) -> int:
        if self.device != "cpu":
            import torch

            return torch.cuda.max_memory_allocated() if name == "VmHWM" else torch.cuda.memory_allocated()
        with open("/proc/self/status") as file:
            (line,) = (line for line in file if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024


KINDS = {  # by the name of an operation that torch runs
    "convolution": ("convolution",),
    "linear": ("aten::addmm", "aten::mm"),
    "attention": ("aten::bmm", "aten::_softmax", "flash_attention", "efficient_attention"),
}


def profile(run, device: str) -> dict[str, float]:
    """Seconds of one run by kind of operation, by what each operation takes itself."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        run()
    seconds = dict.fromkeys((*KINDS, "other"), 0.0)
    for event in profiler.key_averages():
        took = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "other")
        seconds[kind] += took / 1e6
    return seconds
