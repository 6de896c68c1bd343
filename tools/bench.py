"""Measure parts of the pack, each against its alternatives in one run.

python tools/bench.py attention            Consistent Self-Attention at the shapes of SDXL's two levels
python tools/bench.py bank                 banks of characters: bytes of an image of SDXL, and the time of reading
python tools/bench.py dynamicrafter        DynamiCrafter's UNet at its full width, on random weights
python tools/bench.py story                Draw Story with a tiny SDXL: the memory of 5 and of 40 frames
python tools/bench.py streaming            a chain of chunks on tiny weights, from 2 to 64 chunks
python tools/bench.py attention --json     one JSON object a line
python tools/bench.py attention --batch 8 40 --tokens 4096 --forms plain ours     how memory grows with the story

Times on shared machines are noisy: every form runs once in every round, and the least time of each form counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys

import environment
from benches import attention, bank, dynamicrafter, story, streaming

BENCHES = {
    "attention": attention,
    "bank": bank,
    "dynamicrafter": dynamicrafter,
    "story": story,
    "streaming": streaming,
}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benches = parser.add_subparsers(dest="what", required=True)
    for name, bench in BENCHES.items():
        options = benches.add_parser(name, help=bench.__doc__.splitlines()[0])
        options.add_argument("--json", action="store_true", help="one JSON object a line")
        options.add_argument("--rounds", type=int, default=3, help="timed runs of each form")
        options.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where torch has one")
        bench.add_options(options)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if importlib.util.find_spec("torch") is None:
        return subprocess.call([str(environment.prepare()), __file__, *arguments])
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    import pack

    pack.load_pack()
    BENCHES[options.what].run(options)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
