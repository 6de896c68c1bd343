"""Banks of characters: bytes of a recorded image, and the time of reading against plain sampling.

Bytes are those of SDXL at 1024 x 1024, from the shapes of its layers. Times are of a tiny SDXL of full shape; plain and
reading runs alternate, and the ratio is the median of those of the rounds. On a CPU they are the time that the process
computes, which other programs change little.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from .measures import seconds

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 2  # of the character in the bank

# SDXL's layers in its up blocks follow 24 in the down blocks and 10 in the middle: their number, pixels a token spans,
# channels.
UP_LAYERS = [(34 + layer, 32, 1280) for layer in range(30)] + [(64 + layer, 16, 640) for layer in range(6)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=512, help="of the images that are sampled, in pixels")
    parser.add_argument("--steps", type=int, default=4, help="of the sampler that is timed")
    parser.set_defaults(rounds=5)


def run(options: argparse.Namespace) -> None:
    sys.path.append(str(ROOT / "tests"))  # the host in this process and the tiny checkpoint are the tests' own
    from harness import tiny
    from harness.host import Host
    from hosting.folders import make_base

    with tempfile.TemporaryDirectory() as folder:
        host = Host(make_base(Path(folder)), ROOT)
        try:
            for row in sizes():
                print(json.dumps(row) if options.json else size_line(row), flush=True)
            model = host.load_model(tiny.write("sdxl_slim", host.base / "models" / "checkpoints").name)
            row = reading(host, model, options.size, options.steps, options.rounds)
            print(json.dumps(row) if options.json else reading_line(row), flush=True)
        finally:
            host.close()


def sizes(size: int = 1024, steps: int = 50) -> Iterator[dict]:
    """Bytes of an image in the bank, of the preset low-vram: cond and uncond."""
    import comfy.model_sampling
    import comfy.samplers
    from storyreel.core.attention.bank import DTYPES, Level
    from storyreel.core.attention.bank_plan import plan_recording
    from storyreel.core.attention.consistent import Settings
    from storyreel.core.attention.presets import PRESETS
    from storyreel.core.attention.schedule import Percents, phases_of

    values = PRESETS["low-vram"]
    names = ("sampling_rate", "sampling_rate_fine", "layer_prob_early", "layer_prob_late")
    settings = Settings(**{name: values[name] for name in names})
    percents = Percents(values["start_percent"], values["layer_prob_switch"], values["end_percent"])
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps).tolist()
    phases = phases_of(percents, sampling.percent_to_sigma, sigmas)
    layers = {number: Level(pixels, (size // pixels) ** 2, channels) for number, pixels, channels in UP_LAYERS}
    for precision in ("fp16", "fp8"):
        for stride in (1, 2):
            plan = plan_recording(settings, phases, sigmas, layers, stride)
            yield {
                "what": "size",
                "size": size,
                "steps": steps,
                "precision": precision,
                "step_stride": stride,
                "bytes_per_image": plan.bytes(1, 2, DTYPES[precision]),
            }


def size_line(row: dict) -> str:
    case = f"{row['size']} x {row['size']}, {row['steps']} steps, {row['precision']}, step_stride {row['step_stride']}"
    return f"SDXL, {case}: {row['bytes_per_image'] / 1e9:.2f} GB an image"


def reading(host, model, size: int, steps: int, rounds: int) -> dict:
    """Times of an image that reads a bank of two others, against one that does not."""
    import torch
    from harness import probe
    from storyreel.nodes.record import StoryReelRecordCharacters

    gpu = torch.cuda.is_available()
    story, side = probe.story_of(*"A" * IMAGES), size // 8

    def sample(model, images):
        conds = probe.conditioning(images, 2048, 1), probe.conditioning(1, 2048, 2)
        return probe.sample(model, *conds, probe.latent(images, side, side), steps=steps)

    readers = {}
    for device in ("cpu", "gpu") if gpu else ("cpu",):
        recorded, bank = StoryReelRecordCharacters.execute(
            model=probe.node(host, model, story=story), precision="fp16", device=device, max_gb=64.0, step_stride=1
        ).result
        sample(recorded, IMAGES)
        readers[device] = probe.node(host, model, story=probe.story_of("A"), bank=bank)
    forms = {"plain": model, **readers}
    times = {form: [] for form in forms}
    for measured in (False, *[True] * rounds):  # the first round warms up
        for form, patched in forms.items():
            begun = time.process_time()
            took = seconds(partial(sample, patched, 1), "cuda" if gpu else "cpu")
            if measured:
                times[form].append(took if gpu else time.process_time() - begun)

    def ratio(form: str, other: str) -> float | None:
        if form not in times or other not in times:
            return None
        return median(a / b for a, b in zip(times[form], times[other], strict=True))

    return {
        "what": "reading",
        "size": size,
        "steps": steps,
        "device": "cuda" if gpu else "cpu",
        "plain_seconds": min(times["plain"]),
        "cpu_bank_seconds": min(times["cpu"]),
        "gpu_bank_seconds": min(times["gpu"]) if gpu else None,
        "reading_ratio": ratio("gpu" if gpu else "cpu", "plain"),
        "cpu_bank_ratio": ratio("cpu", "gpu"),
    }


def reading_line(row: dict) -> str:
    case = f"an image of {row['size']} x {row['size']} that reads {IMAGES}, on {row['device']}"
    banks = "CPU bank against GPU bank: not measured, there is no GPU"
    if row["cpu_bank_ratio"] is not None:
        banks = f"CPU bank against GPU bank: {row['cpu_bank_ratio']:.2f} x"
    return f"{case}: {row['reading_ratio']:.2f} x the time of plain sampling\n{banks}"
