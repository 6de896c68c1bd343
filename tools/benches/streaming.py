"""StreamingT2V's chain of chunks on tiny weights: time and memory of a chunk, and how both grow with the video.

Each length runs in a process of its own, through what Extend Video runs: sampled by the host, decoded, on disk. Memory
is what the process holds, read after every chunk. The networks are tiny and not guided; frames and files are whole.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

FIRST = 16  # frames of the clip; every chunk of 16 adds 8


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunks", type=int, nargs="+", default=[2, 8, 64], help="that are added to a clip of 16")
    parser.add_argument("--size", type=int, default=256, help="of the frames, in pixels")
    parser.add_argument("--steps", type=int, default=2, help="of the sampler")
    parser.set_defaults(rounds=1)


def run(options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    for chunks in options.chunks:
        with context.Pool(1) as pool:
            row = pool.apply(measure, (chunks, options.size, options.steps))
        print(json.dumps(row) if options.json else table(row), flush=True)


def table(row: dict) -> str:
    held = " ".join(f"{bytes / 2**20:.0f}" for bytes in row["rss_bytes"][:: max(1, row["chunks"] // 8)])
    return (
        f"{row['chunks']:>5} chunks, {row['frames']:>5} frames{row['seconds_per_chunk']:>8.2f} s a chunk"
        f"{row['peak_rss_bytes'] / 2**20:>8.0f} MB at most; MB over time: {held}"
    )


def measure(chunks: int, size: int, steps: int) -> dict:
    """A run of so many chunks. peak_rss_bytes: of the process from the first chunk's end to the end of the video."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))  # tiny networks are the tests' own
    import environment
    import pack

    pack.load_host(environment.find_host())
    pack.load_pack()
    import torch
    from harness import streaming
    from storyreel.core.video import files
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter.sampling import DDIM, sigmas_of
    from storyreel.host.extend import extend
    from storyreel.host.extend.extender import ChunkInputs
    from storyreel.host.extend.families import extender_of
    from storyreel.host.streaming import loader
    from storyreel.host.video import file as video_file

    storyworld.register()
    model = loader.build_streaming(streaming.tiny_streaming(streaming.STORYWORLD), torch.float32)
    generator = torch.Generator().manual_seed(0)
    words = [[[torch.randn(1, 77, 96, generator=generator), {}]] for _ in range(2)]
    inputs = ChunkInputs(
        model=model,
        vae=storyworld.load_vae(),
        clip_vision=storyworld.load_clip_vision(),
        sampler=DDIM(1.0),
        sigmas=sigmas_of(model, "leading", steps),
        seed=0,
        cfg=1.0,
        positive=words[0],
        negative=words[1],
    )
    extender = extender_of(inputs)
    clip = video_file.open_video(torch.rand(FIRST, size, size, 3, generator=generator), 8.0)
    held, ends = [], [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        start = extend.read_start(clip, extender.overlap, 0)
        store = extend.Store(Path(folder), [f"{number:012}" for number in range(chunks)])
        for _ in extend.generate_chunks(extender, start, store, 0.0):
            if not held:
                forget_peak()
            held.append(status("VmRSS"))
            ends.append(time.perf_counter())
        whole = Path(folder) / "video.avi"
        files.write_frames(whole, extend.all_frames(start, store), clip.rate)
        frames = video_file.ExactVideo(str(whole)).get_frame_count()
        peak = status("VmHWM")
    seconds = sorted(then - now for now, then in zip(ends, ends[1:], strict=False))
    return {
        "chunks": chunks,
        "frames": frames,
        "seconds_per_chunk": seconds[len(seconds) // 2],
        "peak_rss_bytes": peak,
        "rss_bytes": held,
    }


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def status(name: str) -> int:
    """Bytes that this process holds, by the system's own count."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
