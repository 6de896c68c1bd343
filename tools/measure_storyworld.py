"""Measure what Consistent Self-Attention does on Storyworld's models: one row a setting, with 95 % intervals.

python tools/measure_storyworld.py                                     every row of the table, plots, contact sheet
python tools/measure_storyworld.py --rows plain,csa,csa-all-1 --stories 16 --seed 7 --json

Settings: plain; csa (the default), csa-mask, csa-paper, csa-all-1 (all blocks, rate 1), csa-0.25 (another rate),
csa-anchors-0, csa-blocks-all, csa-start-0.1, csa-end-0.5, csa-strength-0.5, csa-tile-3; each also -noise-same.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

import environment

READER = environment.ROOT / "tools" / "storyworld" / "reader.safetensors"
MAIN = "plain,plain-noise-same,csa,csa-noise-same,csa-all-1"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    python = environment.prepare()
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        return subprocess.call([str(python), __file__, *arguments], env=environment.clean_environ())

    import pack

    pack.load_host(environment.find_host())
    logging.getLogger().setLevel(logging.ERROR)
    from storyworld import measure

    try:
        settings = [measure.read_setting(name) for name in options.rows.split(",")]
    except ValueError as error:
        raise environment.SetupError(str(error)) from None
    studio = open_studio(options.weights)
    for setting in settings:
        row = measure.measure(studio, setting, options.stories, options.seed, options.frames)
        print(json.dumps(row) if options.json else line(row), flush=True)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=MAIN, help="settings, with commas between (default: %(default)s)")
    parser.add_argument("--stories", type=int, default=64, help="stories of each row (default: 64)")
    parser.add_argument("--frames", type=int, default=4, help="pictures of a story (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="which stories, and their noise (default: 0)")
    parser.add_argument("--weights", type=Path, help="another folder of weights than the pack's own")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    return parser.parse_args(arguments)


def open_studio(weights: Path | None):
    """The models that ship, or those of another folder, and the reader."""
    import folder_paths
    from storyreel.host import storyworld
    from storyworld import measure, shipping
    from storyworld.reader import Reader

    if weights:
        folder_paths.add_model_folder_path(storyworld.FOLDER, str(weights))
    storyworld.register_folder()
    reader = Reader().eval()
    path = weights / READER.name if weights else READER
    reader.load_state_dict(shipping.load(path)[0])
    return measure.Studio(reader, storyworld.load_model(), storyworld.load_clip(), storyworld.load_vae())


def line(row: dict) -> str:
    parts = [f"{name} {row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})" for name in ("colours",)]
    parts += [f"{name} {row[name]:.2f}" for name in ("shapes", "named", "scene", "action", "diversity", "vanished")]
    return f"{row['setting']:<24}" + "  ".join(parts)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
