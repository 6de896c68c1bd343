"""Measure what Storyworld's StreamingT2V keeps of clips that it goes on from, with 95 % intervals.

python tools/measure_streaming.py                                          the whole table
python tools/measure_streaming.py --rows both,no-apm --videos 2 --seed 7 --json     some rows, printed

Settings: drawn (no model: the truth through the autoencoder); both, no-cam, no-apm, neither: with CAM and APM and
without; dynamicrafter: Storyworld's video model, from the last frame of each chunk. Each also -chunks-10 (4 are added
if nothing is said), -colour-1 (color_match), -blend-none, -blend-shared, -blend-randomized (refined by the base, in
chunks that are blended or not).

The whole table is kept in models/storyworld/measured_streaming.jsonl: rows that are there for these weights stay, the
others are measured now.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import environment
import measuring
from measuring import JUDGES, PAGE, SHIPPED, VIDEO

STREAMING = SHIPPED / "storyworld_streaming.safetensors"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (code := measuring.begin(__file__, arguments)) is not None:
        return code

    from experiments.storyworld.evaluate import streaming as streaming_measure
    from experiments.storyworld.report import streaming_plots as streaming_figures
    from experiments.storyworld.report import streaming_table

    reader = options.judges / "classifier.safetensors"
    settings = measuring.settings(measuring.named(options.rows), streaming_measure.read_setting)
    measuring.require(options.streaming, options.video, reader)
    studio = streaming_measure.open_studio(options.streaming, options.video, options.weights, reader, options.steps)
    origin = measuring.origin("streaming", options.streaming, options.video)  # the baseline's count, too
    if not options.rows:
        return fill_table(options, studio, origin)
    sheet = streaming_figures.Sheet(options.sheet) if options.sheet else None
    for setting in settings:
        if sheet:
            sheet.setting = setting.name
        each = sheet and sheet.add
        row = streaming_measure.measure(studio, setting, options.videos, options.seed, each) | origin
        print(json.dumps(row) if options.json else streaming_table.line(row), flush=True)
    if sheet:
        sheet.save()
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="settings, with commas between (default: the whole table)")
    parser.add_argument("--videos", type=int, default=6, help="of each of these rows (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="which clips, and their noise (default: 0)")
    parser.add_argument("--steps", type=int, help="of each chunk (default: as the table has them)")
    parser.add_argument("--streaming", type=Path, default=STREAMING, help="another model than the one that ships")
    parser.add_argument("--video", type=Path, default=VIDEO, help="another baseline than the one that ships")
    parser.add_argument("--weights", type=Path, help="another folder for the other models than the pack's own")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="another folder of readers")
    parser.add_argument("--sheet", type=Path, help="a picture of the videos of these rows, frames side by side")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args(arguments)
    measuring.keep_the_table(parser, options, "videos", "seed", "steps", "sheet")
    return options


def fill_table(options: argparse.Namespace, studio, origin: dict) -> int:
    """Measure the rows that are missing, and write up what there is."""
    from experiments.storyworld.evaluate import streaming as streaming_measure
    from experiments.storyworld.report import streaming_plots as streaming_figures
    from experiments.storyworld.report import streaming_table, table

    rows = table.Rows(options.streaming.parent / "measured_streaming.jsonl")

    def measured(wish: table.Wanted) -> dict:
        setting = streaming_measure.read_setting(wish.setting)
        return streaming_measure.measure(studio, setting, wish.stories, options.seed) | origin

    rows.complete(
        rows.missing(streaming_table.wanted(), options.seed, origin["weights"]), measured, streaming_table.line
    )
    found = rows.of(origin["weights"])
    if options.streaming == STREAMING:
        table.fill(PAGE, "streaming", streaming_table.main_table(found))
        table.fill(PAGE, "chunks", streaming_table.chunks_table(found))
        table.fill(PAGE, "blending", streaming_table.blends_table(found))
        table.fill(PAGE, "drift", streaming_table.colours_table(found))
        streaming_figures.plot(found, SHIPPED / "measured_streaming.png")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
