"""Training a motion predictor on a folder of clips, and the file that it becomes."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...core.networks.semantic_motion import training
from ...core.networks.semantic_motion.config import TRAINING, PredictorConfig, read_training, write_config
from ...core.networks.semantic_motion.predictor import MotionPredictor
from ...core.networks.semantic_motion.training import Clip, Figures
from ...core.training import Plan, seeded, train
from ..common.folders import folder_of, inside
from ..common.loading import read_metadata
from .clips import (
    NODE,
    SUFFIXES,
    Tell,
    clips_in,
    digest,
    latent_paths,
    make_latents,
    make_tokens,
    stamp,
    token_paths,
    usable,
    write,
)
from .decoder_training import FrozenVideo, Joint, VideoError
from .predict import FOLDER, Predictor, Space, load_predictor

WORK = Path("story", "motion")  # in the host's output folder
STATE = "state.safetensors"
BYTES_A_WEIGHT = 24  # itself, its average, its gradient, two moments, and what is computed with it
BYTES_A_CHANNEL = 50  # of every token in every block: what is kept for the way back, mostly at 16 bits


@dataclass(frozen=True)
class Recipe:
    """What is learnt, beside the network's sizes and the plan.

    frames: of a window at most. stride: from one frame of a video that is used to the next. held_out: share of the
    clips. cosine: weight of that part of the loss.
    """

    frames: int = 16
    stride: int = 1
    held_out: float = 0.1
    cosine: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A predictor in a file. log: rows of step, loss and held-out error."""

    path: Path
    figures: Figures
    log: list[dict]


def input_folder(name: str) -> Path:
    """A folder inside the host's input folder. Raises ValueError for another one."""
    path = inside(folder_paths.get_input_directory(), name, f"{NODE}: clips")
    if not path.is_dir():
        raise ValueError(f"{NODE}: there is no folder {name!r} in ComfyUI's input folder; put clips into one there.")
    return path


def stamp_of(name: str) -> str:
    """Another one after a clip in that folder came, went or changed."""
    return stamp(input_folder(name))


def output_file(name: str) -> Path:
    """Where a predictor of this name goes. Raises ValueError for a name that leads out of the folder."""
    name = name.strip().removesuffix(".safetensors")
    path = inside(folder_of(FOLDER), name, f"{NODE}: name")
    return path.with_name(f"{path.name}.safetensors")


def train_in_host(
    untrained: Predictor,
    clip_vision,
    folder: str,
    name: str,
    config: PredictorConfig,
    plan: Plan,
    recipe: Recipe,
    joint: Joint | None = None,
) -> tuple[Predictor, Trained]:
    """What the node does: its clips, its file and its unfinished runs lie in the host's own folders.

    Raises ValueError for a predictor that is trained already, and as `run` does.
    """
    if untrained.network is not None:
        raise ValueError(f"{NODE}: training begins with nothing; choose none in Load Motion Predictor.")
    clips, target = clips_in(input_folder(folder)), output_file(name)
    bars: dict[str, comfy.utils.ProgressBar] = {}

    def tell(kind: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bars.setdefault(kind, comfy.utils.ProgressBar(total)).update_absolute(done, total)

    work = Path(folder_paths.get_output_directory()) / WORK
    trained = run(untrained.space, clip_vision, clips, target, config, plan, recipe, work, tell, joint)
    return load_predictor(target.relative_to(folder_of(FOLDER)).as_posix(), untrained.space), trained


def run(
    space: Space,
    clip_vision,
    clips: Sequence[Path],
    target: Path,
    config: PredictorConfig,
    plan: Plan,
    recipe: Recipe,
    work: Path,
    tell: Tell,
    joint: Joint | None = None,
) -> Trained:
    """Train on video files and write `target`, with what it reached in its metadata, be that good or not.

    work: for tokens, latents and unfinished runs. A training that is in `target` already is not repeated.

    Files that are no clips are skipped, and change nothing, see `motion_clips.usable`. Raises ValueError if they all
    are, for a video model that cannot serve, and if `target` is of another training.
    """
    if not clips:
        raise ValueError(f"{NODE}: there are no clips; a folder of videos is expected ({', '.join(SUFFIXES)}).")
    if config.frames < recipe.frames:
        raise ValueError(
            f"{NODE}: windows of {recipe.frames} frames are asked of a position table of {config.frames} rows."
        )
    video = FrozenVideo(joint, config) if joint is not None and joint.weight else None
    paths, latents = token_paths(space, clip_vision, clips, recipe.stride, work / "tokens"), []
    serving = usable(clips, recipe.stride, paths)
    clips, paths = [clips[number] for number in serving], [paths[number] for number in serving]
    told = {"plan": asdict(plan), "recipe": asdict(recipe)}
    if video is not None:
        told["joint"] = video.told
        latents = latent_paths(joint.vae, joint.size, clips, recipe.stride, work / "latents")
    key = digest([told, asdict(config), [path.name for path in (*paths, *latents)]])
    if target.exists():
        stated = read_training(read_metadata(target))
        if stated.get("run") != key:
            raise ValueError(f"{NODE}: {target.name} is there and of another training; choose another name.")
        return Trained(target, Figures(**stated["figures"]), stated["log"])
    tokens = make_tokens(space, clip_vision, clips, recipe.stride, paths, tell)
    kept, held_out = training.split(tokens, recipe.held_out, plan.seed)
    learning = partial(learn, kept, held_out, config, plan, recipe, work / key / STATE, tell)
    if video is None:
        figures, log, weights = learning()
    else:
        make_latents(joint.vae, joint.size, clips, recipe.stride, latents, tell)
        figures, log, weights = video.during(
            dict(zip(paths, latents, strict=True)), memory_of(config, plan, recipe), learning
        )
    told |= {"run": key, "tokens_of": space.name, "clips": len(clips), **reached(figures, log)}
    write(target, weights, {**write_config(config), TRAINING: json.dumps(told)})
    shutil.rmtree(work / key, ignore_errors=True)
    logging.info("StoryReel: %s. %s", target.name, figures.told)
    return Trained(target, figures, log)


def reached(figures: Figures, log: list[dict]) -> dict:
    """What a file says of how far its training came."""
    told = {"beats_interpolation": figures.beats, "verdict": figures.told}
    return told | {"figures": asdict(figures), "log": log}


@torch.inference_mode(False)
@torch.enable_grad()
def learn(
    clips: Sequence[Clip],
    held_out: Sequence[Clip],
    config: PredictorConfig,
    plan: Plan,
    recipe: Recipe,
    state: Path,
    tell: Tell,
    video: VideoError | None = None,
) -> tuple[Figures, list[dict], dict[str, Tensor]]:
    """(what it reached on the clips that were held out, the log, its weights in half precision)

    state: the file in which an unfinished run is kept. video: of a video model that is loaded, and has left the
    `memory_of` the training free; its error counts for the first window of a step.
    """
    examples = training.Examples(clips, config, recipe.frames)
    network, device = seeded(lambda: MotionPredictor(config), plan.seed), comfy.model_management.get_torch_device()
    if video is None:
        comfy.model_management.free_memory(memory_of(config, plan, recipe), device)

    def loss(network, generator) -> Tensor:
        asked = examples.draw(plan.batch, generator).to(device)

        def beside(predicted: Tensor) -> Tensor:
            return video(predicted[0], *asked.places[0], generator)

        return training.loss(network, asked, recipe.cosine, None if video is None else beside)

    def measure(network) -> Figures:
        return training.measure(network, held_out, config, recipe.frames)

    average, log = train(
        network.to(device),
        loss,
        plan,
        state,
        lambda network: {"mse": measure(network).mse},
        lambda step: tell("step", step, plan.steps),
    )
    tell("step", plan.steps, plan.steps)
    weights = {key: t.half() for key, t in average.state_dict().items()}
    average.load_state_dict(weights)  # what is measured is what is saved
    return measure(average), log, weights


def memory_of(config: PredictorConfig, plan: Plan, recipe: Recipe) -> int:
    """Bytes that training takes on its device, about."""
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in MotionPredictor(config).parameters())
    kept = plan.batch * recipe.frames * config.tokens * config.width * config.depth
    return BYTES_A_WEIGHT * weights + BYTES_A_CHANNEL * kept
