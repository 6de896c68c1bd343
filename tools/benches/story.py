"""Draw Story with a tiny SDXL of full shape: time of a frame, and the memory of a short and of a long story.

Each length runs in a process of its own, through the host's own executor. Memory is what the process holds: its peak
until all frames are on disk, and the peak with the output IMAGE, which holds all of them.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from .streaming import forget_peak, status

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS = "[Mia] a girl with red hair\n[Pip] a small white fox"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 40], help="of the stories")
    parser.add_argument("--size", type=int, default=256, help="of the images, in pixels")
    parser.add_argument("--steps", type=int, default=2, help="of the sampler")
    parser.set_defaults(rounds=1)


def run(options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    for frames in options.frames:
        with context.Pool(1) as pool:
            row = pool.apply(measure, (frames, options.size, options.steps))
        print(json.dumps(row) if options.json else table(row), flush=True)


def table(row: dict) -> str:
    return (
        f"{row['frames']:>5} frames{row['seconds_per_frame']:>8.2f} s a frame"
        f"{row['peak_rss_bytes'] / 2**20:>8.0f} MB until all are on disk"
        f"{row['peak_rss_bytes_with_images'] / 2**20:>8.0f} MB with the IMAGE of {row['image_bytes'] / 2**20:.0f} MB"
    )


def measure(frames: int, size: int, steps: int) -> dict:
    """A story of two characters, by Draw Story. peak_rss_bytes: of the process, from the first frame on disk to the
    last one. peak_rss_bytes_with_images: the same until the output is there. rss_bytes: after each frame."""
    sys.path.append(str(ROOT / "tests"))  # the host in this process and the tiny checkpoint are the tests' own
    import pack

    pack.load_pack()
    from harness import tiny
    from harness.host import Host
    from hosting.folders import make_base

    with tempfile.TemporaryDirectory() as folder:
        host = Host(make_base(Path(folder)), ROOT)
        checkpoint = tiny.write("sdxl", host.base / "models" / "checkpoints").name
        from storyreel.host.story.drawn_frames import FrameFolder

        ends, peaks, held = [], [], []
        write, read = FrameFolder.write_image, FrameFolder.read_images

        def written(self, *args):
            write(self, *args)
            if not ends:
                forget_peak()
            held.append(status("VmRSS"))
            ends.append(time.perf_counter())

        def collected(self, names):
            peaks.append(status("VmHWM"))
            images = read(self, names)
            peaks.append(images.numel() * images.element_size())
            return images

        FrameFolder.write_image, FrameFolder.read_images = written, collected
        host.run(prompt(checkpoint, frames, size, steps))
        peaks.append(status("VmHWM"))
        host.close()
    return {
        "frames": frames,
        "size": size,
        "steps": steps,
        "seconds_per_frame": (ends[-1] - ends[0]) / (frames - 1),
        "peak_rss_bytes": peaks[0],
        "peak_rss_bytes_with_images": peaks[2],
        "image_bytes": peaks[1],
        "rss_bytes": held,
    }


def prompt(checkpoint: str, frames: int, size: int, steps: int) -> dict:
    scenes = [f"[{('Mia', 'Pip')[number % 2]}] walks along road number {number}" for number in range(frames)]
    script = dict(characters=CHARACTERS, scenes="\n".join(scenes), style="(No style)", negative="blurry")
    inputs = dict(width=size, height=size, seed=1, steps=steps, cfg=5.0, sampler_name="euler", scheduler="normal")
    inputs |= dict(anchors=2, frames_at_once=1, strength=1.0, sampling_rate=0.5, name="bench", frames="")
    inputs |= dict(model=["load", 0], clip=["load", 1], vae=["load", 2], story=["story", 0])
    return {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "story": {"class_type": "StoryReelScript", "inputs": script},
        "draw": {"class_type": "StoryReelDrawStory", "inputs": inputs},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["draw", 0]}},
    }
