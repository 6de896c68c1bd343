"""Train a Semantic Motion Predictor on a folder of clips, as the node of that name does, with files of any place.

Training is in token space; through a frozen video model as well it is the node's, Train Motion Predictor.

python tools/train_motion.py CLIPS OUT.safetensors --clip-vision CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors \\
    --ip-adapter ip-adapter-plus_sd15.safetensors          for SD1.5
python tools/train_motion.py CLIPS OUT.safetensors --clip-vision ... --dynamicrafter dynamicrafter_512.safetensors

CLIPS: a folder of videos, one shot each. OUT is written with what it reached on held-out clips in its metadata, beside
interpolation, and OUT.png shows its curve. Stopped, the same command goes on from where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import environment

WORK = environment.CACHE / "motion"
TOY = "storyworld"
PRINT_SECONDS = 15


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    for file in (options.clip_vision, options.ip_adapter, options.dynamicrafter):
        if file not in (None, TOY) and not Path(file).is_file():
            raise environment.SetupError(f"there is no file {file}.")
    if (code := environment.rerun(__file__, arguments)) is not None:
        return code

    import pack

    pack.load_host(environment.find_host())
    pack.load_pack()
    from storyreel.core.networks.semantic_motion.config import PredictorConfig
    from storyreel.core.training import TrainConfig
    from storyreel.host.motion.clips import clips_in
    from storyreel.host.motion.job import DataConfig, TokenSpec, TrainingJob
    from storyreel.host.motion.training import run

    started = time.monotonic()
    try:
        encoder, clip_vision = load(options)
        config = PredictorConfig(
            encoder.token_space,
            *encoder.shape,
            options.width,
            options.depth,
            options.heads or max(1, options.width // 64),
            options.frames,
            1 if options.start_alone else 2,
            options.keyframes,
        )
        plan = TrainConfig(options.steps, options.batch, options.rate, options.seed)
        data = DataConfig(options.frames, options.stride, options.held_out)
        job, tokens = TrainingJob(config, plan, data, options.cosine), TokenSpec(encoder, clip_vision)
        trained = run(job, tokens, clips_in(options.clips), options.out, options.work, Telling(options.stop_after))
    except Stopped as stopped:
        print(stopped)
        return 0
    except (ValueError, FileNotFoundError) as error:
        raise environment.SetupError(str(error)) from None
    draw_curve(trained)
    print(f"{options.out}: {trained.result.summary}")
    print(f"done after {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


class Stopped(Exception):
    """It was told to stop; it goes on from here when it is started again."""


class Telling:
    """Prints how far it is, every now and then."""

    def __init__(self, stop_after: int | None):
        self.stop_after, self.printed, self.begun = stop_after, 0.0, {}

    def __call__(self, kind: str, done: int, total: int) -> None:
        if kind == "step" and done == self.stop_after:
            raise Stopped(f"stopped after step {done} of {total}")
        now = time.monotonic()
        first, since = self.begun.setdefault(kind, (done, now))
        if now - self.printed > PRINT_SECONDS or done == total or kind == "step" and done == first:
            left = (now - since) / (done - first) * (total - done) / 60 if done > first else 0
            print(f"{kind} {done} of {total}" + (f", {left:.1f} min left" if left else ""), flush=True)
            self.printed = now


def load(options: argparse.Namespace):
    """(whose tokens are learnt, the image encoder)"""
    import comfy.clip_vision
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import loader
    from storyreel.host.motion import ip_adapter
    from storyreel.host.motion.token_encoders import DynamiCrafterTokenEncoder

    if options.clip_vision == TOY:
        storyworld.register()
        clip_vision = storyworld.load_clip_vision()
    else:
        clip_vision = comfy.clip_vision.load(options.clip_vision)
    if options.ip_adapter:
        return ip_adapter.load_token_encoder(offer(ip_adapter.FOLDER, options.ip_adapter)), clip_vision
    model = loader.load(offer("checkpoints", options.dynamicrafter)).model
    return DynamiCrafterTokenEncoder(model), clip_vision


def offer(folder: str, path: str) -> str:
    """A file of any place, as one of the host's folder: its name there."""
    import folder_paths

    folder_paths.add_model_folder_path(folder, str(Path(path).resolve().parent), is_default=True)
    return Path(path).name


def draw_curve(trained) -> None:
    from PIL import Image
    from storyreel.core.motion.training_plot import draw
    from storyreel.core.video.files import to_bytes

    curve = draw(trained.log, trained.result.mse_interpolation, f"{trained.path.name}: {trained.result.summary}")
    Image.fromarray(to_bytes(curve)[0]).save(trained.path.with_suffix(".png"))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="a folder of videos")
    parser.add_argument("out", type=Path, metavar="OUT", help="the predictor's file, *.safetensors")
    parser.add_argument(
        "--clip-vision", required=True, metavar="FILE", help=f"the image encoder; {TOY}: the toy's in the box"
    )
    tokens = parser.add_mutually_exclusive_group(required=True)
    tokens.add_argument("--ip-adapter", metavar="FILE", help="whose tokens are learnt: an IP-Adapter for SD1.5")
    tokens.add_argument("--dynamicrafter", metavar="FILE", help="or a DynamiCrafter checkpoint")
    parser.add_argument("--frames", type=int, default=16, help="of a window at most, and most that it can predict")
    parser.add_argument("--stride", type=int, default=1, help="from one frame that is used to the next (default: 1)")
    parser.add_argument("--start-alone", action="store_true", help="it will see the start picture and no end")
    parser.add_argument("--keyframes", action="store_true", help="it will at times see a picture between")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-4, help="of learning (default: 1e-4)")
    parser.add_argument("--cosine", type=float, default=1.0, help="weight of that part of the loss (default: 1)")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="SHARE", help="of the clips (default: .1)")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--heads", type=int, help="(default: one for every 64 of the width)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=WORK, help="for tokens and unfinished runs (.cache/motion)")
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="stop there, as if interrupted")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".safetensors":
        parser.error(f"OUT is {options.out.name}; a name that ends in .safetensors is expected")
    if options.frames < 3:
        parser.error(f"--frames is {options.frames}; at least 3 are expected, of which the first and last are given")
    if options.start_alone and options.keyframes:
        parser.error("--start-alone has no pictures between: no --keyframes beside it")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
