"""Train Storyworld's models from nothing: at most 90 minutes on two processor cores, as long again for the video model,
two hours for StreamingT2V, and an hour for semantic motion; less on a GPU.

python tools/train_storyworld.py                     every stage; what is finished stays, what was stopped goes on
python tools/train_storyworld.py clip pictures       some stages
python tools/train_storyworld.py --ship              and put the weights where the pack finds them
python tools/train_storyworld.py video --ship        one stage and its weights
python tools/train_storyworld.py pictures --seed 1 --no-twins      another UNet, for comparison

Stages: autoencoder; clip (text and image tower); pictures (the UNet); classifier and video_classifier (for the
measurements); video (a small DynamiCrafter); streaming_base, streaming_cam, streaming_apm (a small StreamingT2V, in the
paper's order); ip_adapter, motion_module (both for the UNet, which stays as it is) and predictor (semantic motion).
Each leaves its weights, its log and a picture of its loss in .cache/storyworld. It builds on weights of the stages
before: this folder's, else those that ship.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import environment

STREAMING = ("streaming_base", "streaming_cam", "streaming_apm")
MOTION = ("ip_adapter", "motion_module", "predictor")
STAGES = ("autoencoder", "clip", "pictures", "classifier", "video_classifier", "video", *STREAMING, *MOTION)
WORK = environment.CACHE / "storyworld"
SHIPPED = environment.ROOT / "models" / "storyworld"
JUDGES = environment.ROOT / "experiments" / "storyworld" / "evaluate"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if (code := environment.rerun(__file__, arguments)) is not None:
        return code

    import pack

    pack.load_host(environment.find_host())
    sys.path.append(str(environment.ROOT))  # behind the host, which has modules of the same names
    from experiments.storyworld.train import publish as release
    from experiments.storyworld.train.stages import Training
    from experiments.storyworld.train.trainer import Stopped

    shipped = SHIPPED, JUDGES
    training = Training(options.work, options.seed, options.twins, options.scale, options.stop_after, shipped)
    started = time.monotonic()
    for stage in STAGES:
        if stage in (options.stages or STAGES):
            try:
                getattr(training, stage)()
            except Stopped as stopped:
                print(stopped)
                return 0
            except FileNotFoundError as error:
                raise environment.SetupError(str(error)) from None
            print(f"{stage}: done after {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    if options.ship:
        try:
            release.ship(options.stages, training.folder, SHIPPED, JUDGES)
        except FileNotFoundError as error:
            raise environment.SetupError(str(error)) from None
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the UNet's weights and batches (default: 0)")
    parser.add_argument("--no-twins", dest="twins", action="store_false", help="one hero in every picture")
    parser.add_argument("--ship", action="store_true", help="copy the weights into the pack")
    parser.add_argument("--work", type=Path, default=WORK, help="for data and results (default: .cache/storyworld)")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="SHARE", help="share of the steps and pictures: .01 tries it out"
    )
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="stop the stage there, as if interrupted")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if options.ship and (options.seed or not options.twins or options.scale != 1):
        parser.error("only the recipe's own model ships: no --seed, --no-twins or --scale beside --ship")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
