"""Measure what Consistent Self-Attention does on Storyworld's models: one row a setting, with 95 % intervals.

python tools/measure_storyworld.py                                     the whole table, its plot and its contact sheet
python tools/measure_storyworld.py --rows plain,csa,csa-all-1 --stories 16 --seed 7 --json       some rows, printed

Settings: plain; csa (the default), csa-mask, csa-paper, csa-all-1 (all blocks, rate 1), csa-0.25 (another rate),
csa-anchors-0, csa-blocks-all, csa-start-0.1, csa-end-0.5, csa-strength-0.5, csa-tile-3; each also -noise-same.

The whole table is kept in models/storyworld/measured.jsonl: rows that are there for these weights stay, the others are
measured now. With --unet and --weights the main rows of another UNet are added, over fewer stories.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import environment
import measuring
from measuring import JUDGES, PAGE, SHIPPED

READER = JUDGES / "classifier.safetensors"
DATA = environment.CACHE / "storyworld" / "data"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (code := measuring.begin(__file__, arguments)) is not None:
        return code

    from experiments.storyworld.evaluate import pictures as measure

    if not options.rows:
        return fill_table(options)
    settings = measuring.settings(measuring.named(options.rows), measure.read_setting)
    studio, origin = open_studio(options.weights, options.unet)
    for setting in settings:
        row = measure.measure(studio, setting, options.stories, options.seed, options.frames) | origin
        print(json.dumps(row) if options.json else line(row), flush=True)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="settings, with commas between (default: the whole table)")
    parser.add_argument("--stories", type=int, default=64, help="stories of each of these rows (default: 64)")
    parser.add_argument("--frames", type=int, default=4, help="pictures of a story (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="which stories, and their noise (default: 0)")
    parser.add_argument("--weights", type=Path, help="another folder of weights than the pack's own")
    parser.add_argument("--unet", default="unet", help="another UNet of that folder, unet_1 say")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args(arguments)
    others = options.unet != parser.get_default("unet")  # lie beside the pack
    measuring.keep_the_table(parser, options, "stories", "frames", "seed", *([] if others else ["weights"]))
    return options


def open_studio(weights: Path | None, unet: str) -> tuple:
    """The models with their judges, and what the rows say of their origin."""
    import folder_paths
    from storyreel.host import storyworld

    from experiments.storyworld.evaluate import pictures as measure

    studio = measure.open_studio(weights, weights / READER.name if weights else READER, DATA, unet)
    file = Path(folder_paths.get_full_path(storyworld.FOLDER, f"{unet}.safetensors"))
    return studio, measuring.origin(unet, file)


def fill_table(options: argparse.Namespace) -> int:
    """Measure the rows that are missing, and write up what there is."""
    from experiments.storyworld.evaluate import pictures as measure
    from experiments.storyworld.report import plots as figures
    from experiments.storyworld.report import table

    rows = table.Rows(SHIPPED / "measured.jsonl")
    studio, origin = open_studio(options.weights, options.unet)
    shipped = options.unet == "unet"

    def measured(wish: table.Wanted) -> dict:
        setting = measure.read_setting(wish.setting)
        return measure.measure(studio, setting, wish.stories, options.seed, wish.frames) | origin

    rows.complete(rows.missing(table.wanted(shipped), options.seed, origin["weights"]), measured, line)
    if shipped:
        found = rows.of(origin["weights"])
        figures.plot(found, SHIPPED / "measured.png")
        figures.contact_sheet(studio, options.seed, SHIPPED / "stories.jpg")
        table.fill(PAGE, "main", table.main_table(found))
        table.fill(PAGE, "factors", table.factors_table(found))
        table.fill(PAGE, "lengths", table.lengths_table(found))
    table.fill(PAGE, "models", table.models_table(rows))
    return 0


def line(row: dict) -> str:
    from experiments.storyworld.report import table

    parts = [f"{name} {table.share(row, name)}" for name in table.COLUMNS]
    parts += [f"{name} {row[name]}" for name in ("diversity", "vanished", "stray")]
    return f"{row['setting']} ({row['stories']} of {row['frames']}): " + ", ".join(parts)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
