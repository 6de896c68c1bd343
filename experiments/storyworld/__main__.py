"""Trains Storyworld's models, and measures what they make.

python experiments/storyworld train                         every stage; finished ones stay, a stopped one resumes
python experiments/storyworld train clip pictures           some stages
python experiments/storyworld train video --publish         and put the weights and their cards where the pack has them
python experiments/storyworld train pictures --seed 1 --no-twins      another UNet, for comparison
python experiments/storyworld evaluate pictures             the whole table: rows that are missing, tables, plots
python experiments/storyworld evaluate pictures --network transformer      the rows of another network
python experiments/storyworld evaluate video --rows animate,loop --count 2 --seed 7 --json       some rows, printed

Training from nothing takes at most 90 minutes on two processor cores, as long again for the video model, two hours for
StreamingT2V, and an hour for semantic motion. Each stage leaves its weights, its log and a plot of its loss in
.cache/storyworld. It builds on weights of the stages before: this folder's, else those that ship.

The whole table of an evaluation is models/storyworld/measured*.jsonl, and docs/benchmarks.md shows it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path[0] = str(ROOT)  # the host's folder comes before it later, for it has modules of the same names

from tools import environment  # noqa: E402

STREAMING = ("streaming_base", "streaming_cam", "streaming_apm")
MOTION = ("ip_adapter", "motion_module", "predictor")
STAGES = (
    "autoencoder",
    "clip",
    "pictures",
    "transformer",
    "classifier",
    "video_classifier",
    "video",
    *STREAMING,
    *MOTION,
)
EVALUATIONS = {
    "pictures": "Pictures",
    "drawings": "Drawings",
    "pairs": "Pairs",
    "retakes": "Retakes",
    "video": "Video",
    "streaming": "Streaming",
    "motion": "Motion",
}
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (code := environment.rerun(__file__, arguments)) is not None:
        return code

    from tools import pack

    pack.load_host(environment.find_host())
    logging.getLogger().setLevel(logging.ERROR)  # of the host
    try:
        return options.run(options)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise environment.SetupError(str(error)) from None


def train(options: argparse.Namespace) -> int:
    from experiments.storyworld import CLASSIFIERS, SHIPPED
    from experiments.storyworld.train import publish, stages
    from experiments.storyworld.train.trainer import Stopped, keep_memory
    from experiments.storyworld.train.workspace import Workspace

    shipped = SHIPPED, CLASSIFIERS
    work = Workspace(options.work, options.seed, options.twins, options.scale, options.stop_after, shipped)
    keep_memory()
    started = time.monotonic()
    for stage in STAGES:
        if stage in (options.stages or STAGES):
            try:
                stages.STAGES[stage](work)
            except Stopped as stopped:
                print(stopped)
                return 0
            print(f"{stage}: done after {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    if options.publish:
        publish.publish(options.stages, work.folder, SHIPPED, CLASSIFIERS)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """1 if the whole table misses a target."""
    from importlib import import_module

    from experiments.storyworld.report import plots, rows

    kind = getattr(import_module(f"experiments.storyworld.evaluate.{options.kind}"), EVALUATIONS[options.kind])
    known = {setting.name: setting for setting in kind.settings}
    settings = [known.get(name) for name in options.rows]
    if None in settings:
        raise environment.SetupError(
            f'"{options.rows[settings.index(None)]}" is no setting; there are {", ".join(known)}.'
        )
    pipeline = kind(options.weights, options.steps, **({"network": options.network} if options.network else {}))
    origin = pipeline.origin()
    if not settings:
        return fill_table(pipeline, origin, options.seed)
    entries = []
    for setting in settings:
        changed = {name: type(getattr(setting, name))(value) for name, value in options.set}

        def show(caption: str, frames, name: str = setting.name) -> None:
            entries.append((f"{name}: {caption}", plots.strip(frames)))

        examples = options.count, options.seed, show if options.sheet else None
        row = pipeline.measure(replace(setting, **changed), *examples) | origin
        print(json.dumps(row) if options.json else rows.describe(row), flush=True)
    if entries:
        plots.sheet(entries).save(options.sheet)
    return 0


def fill_table(pipeline, origin: dict[str, str], seed: int) -> int:
    """Measure the rows that are missing, and write the document's tables and the plots."""
    from experiments.storyworld import SHIPPED
    from experiments.storyworld.report import rows

    file = rows.Rows(SHIPPED / pipeline.file_name)
    missing = file.missing(pipeline.settings, seed, origin["weights"])
    for number, setting in enumerate(missing, 1):
        file.add(pipeline.measure(setting, setting.count, seed) | origin)
        print(f"{number} of {len(missing)}: {rows.describe(file.rows[-1])}", flush=True)
    for name, lines in pipeline.tables(file, origin["weights"]).items():
        rows.fill(DOCUMENT, name, lines)
    missed = pipeline.illustrate(file, seed)
    print("\n".join(missed) or "every target is reached")
    return len(missed) > 0


def parse(arguments: list[str]) -> argparse.Namespace:
    style = dict(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser = argparse.ArgumentParser(prog="storyworld", **style)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    training = commands.add_parser("train", help="train models", **style)
    training.set_defaults(run=train)
    training.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} (default: all)")
    training.add_argument("--seed", type=int, default=0, help="of the UNet's weights and batches (default: 0)")
    training.add_argument("--no-twins", dest="twins", action="store_false", help="one hero in every picture")
    training.add_argument("--publish", action="store_true", help="copy the weights into the pack")
    training.add_argument("--work", type=Path, default=environment.CACHE / "storyworld", help="for data and results")
    training.add_argument("--scale", type=float, default=1.0, help="share of steps, batches and data: .01 tries it out")
    training.add_argument("--stop-after", type=int, metavar="STEP", help="stop the stage there, as if interrupted")

    measuring = commands.add_parser("evaluate", help="measure what models make", **style)
    measuring.set_defaults(run=evaluate)
    measuring.add_argument("kind", choices=EVALUATIONS)
    measuring.add_argument("--rows", type=lambda names: names.split(","), default=[], help="settings, with commas")
    measuring.add_argument("--count", type=int, default=8, help="examples of each of these rows (default: 8)")
    measuring.add_argument("--seed", type=int, default=0, help="which examples, and their noise (default: 0)")
    measuring.add_argument("--steps", type=int, help="of sampling (default: the table's)")
    measuring.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="another value in these settings"
    )
    measuring.add_argument("--weights", type=Path, help="a folder of trained weights, instead of the models that ship")
    measuring.add_argument(
        "--network", help="of pictures: transformer, or another UNet of --weights, unet_1 say; measures its own rows"
    )
    measuring.add_argument("--sheet", type=Path, help="a picture of these rows' examples")
    measuring.add_argument("--json", action="store_true", help="one JSON object a row")

    options = parser.parse_args(arguments)
    if options.run is train:
        if unknown := set(options.stages) - set(STAGES):
            parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
        if options.publish and (options.seed or not options.twins or options.scale != 1):
            parser.error("only the published training's models ship: no --seed, --no-twins or --scale with --publish")
    elif not options.rows:
        names = ["count", "seed", "steps", "set", "sheet", *([] if options.network else ["weights"])]
        if changed := [name for name in names if getattr(options, name) != measuring.get_default(name)]:
            parser.error(f"the whole table has its own: no --{', --'.join(changed)} without --rows")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"storyworld: {error}")
