"""Measure what Storyworld's video model makes of pictures and captions that it never saw, with 95 % intervals.

python tools/measure_video.py                                          the whole table, and whether the model passes
python tools/measure_video.py --rows animate,loop --pictures 2 --seed 7 --json       some rows, printed

Settings: drawn (no model: the truth through the autoencoder); animate, interpolate, loop; each also -wide (actions that
cross the picture), -no-text, -no-image (no image tokens), -no-beside (no latents beside the noise), and with other
scales of guidance by text and by picture, -scales-3-1.

The whole table is kept in models/storyworld/measured_video.jsonl: rows that are there for these weights stay, the
others are measured now.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import environment
import measuring
from measuring import JUDGES, PAGE, SHIPPED, VIDEO


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (code := measuring.begin(__file__, arguments)) is not None:
        return code

    from experiments.storyworld.evaluate import video as video_measure
    from experiments.storyworld.report import video_plots as video_figures
    from experiments.storyworld.report import video_table

    reader, video_reader = (options.judges / f"{name}.safetensors" for name in ("classifier", "video_classifier"))
    settings = measuring.settings(measuring.named(options.rows), video_measure.read_setting)
    measuring.require(options.video, reader, video_reader)
    studio = video_measure.open_studio(options.video, options.weights, reader, video_reader)
    origin = measuring.origin("video", options.video)
    if not options.rows:
        return fill_table(options, studio, origin)
    each = partial(video_figures.side_by_side, path=options.sheet) if options.sheet else None
    for setting in settings:
        row = video_measure.measure(studio, setting, options.pictures, options.seed, each) | origin
        print(json.dumps(row) if options.json else video_table.line(row), flush=True)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="settings, with commas between (default: the whole table)")
    parser.add_argument("--pictures", type=int, default=8, help="start pictures of each of these rows (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which pictures, and their noise (default: 0)")
    parser.add_argument("--video", type=Path, default=VIDEO, help="another video model than the one that ships")
    parser.add_argument("--weights", type=Path, help="another folder for the other models than the pack's own")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="another folder of readers")
    parser.add_argument("--sheet", type=Path, help="a picture of the last clips of these rows, frames side by side")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args(arguments)
    measuring.keep_the_table(parser, options, "pictures", "seed", "sheet")
    return options


def fill_table(options: argparse.Namespace, studio, origin: dict) -> int:
    """Measure the rows that are missing, write up what there is, and say whether the model passes: 1 if not."""
    from experiments.storyworld.evaluate import video as video_measure
    from experiments.storyworld.report import table, video_table
    from experiments.storyworld.report import video_plots as video_figures

    rows = table.Rows(options.video.parent / "measured_video.jsonl")

    def measured(wish: table.Wanted) -> dict:
        setting = video_measure.read_setting(wish.setting)
        return video_measure.measure(studio, setting, wish.stories, options.seed) | origin

    rows.complete(rows.missing(video_table.wanted(), options.seed, origin["weights"]), measured, video_table.line)
    found = rows.of(origin["weights"])
    if options.video == VIDEO:
        table.fill(PAGE, "video", video_table.main_table(found))
        table.fill(PAGE, "ends", video_table.ends_table(found))
        table.fill(PAGE, "guidance", video_table.guidance_table(found))
        video_figures.moving_picture(studio, options.seed, SHIPPED / "clips.webp")
    failed = video_table.failed(found)
    print("\n".join(failed) or "every gate is passed")
    return len(failed) > 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
