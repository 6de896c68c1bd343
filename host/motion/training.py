"""Training a motion predictor on a folder of clips, and writing its file."""

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
from ...core.networks.semantic_motion.config import TRAINING, read_training, write_config
from ...core.networks.semantic_motion.predictor import MotionPredictor
from ...core.networks.semantic_motion.training import TokenClip, ValidationResult
from ...core.training import seeded, train
from ..common.folders import folder_of, inside
from ..common.loading import read_metadata
from .clips import (
    SUFFIXES,
    Report,
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
from .decoder_training import FrozenVideo, VideoError
from .job import TokenSpec, TrainingJob
from .predict import FOLDER, Predictor, load_predictor
from .token_encoders import check_clip_vision

WORK = Path("story", "motion")  # in the host's output folder
STATE = "state.safetensors"
BYTES_PER_WEIGHT = 24  # weight, average, gradient, two moments, and intermediate results
BYTES_PER_CHANNEL = 50  # of every token in every block: activations kept for the backward pass, mostly in 16 bits


@dataclass(frozen=True)
class TrainedPredictor:
    """A predictor in a file. log: rows of step, loss and validation error."""

    path: Path
    result: ValidationResult
    log: list[dict]


def input_folder(name: str) -> Path:
    """A folder inside the host's input folder. Raises ValueError for another one."""
    path = inside(folder_paths.get_input_directory(), name, "clips")
    if not path.is_dir():
        raise ValueError(f"there is no folder {name!r} in ComfyUI's input folder; create it and add clips.")
    return path


def stamp_of(name: str) -> str:
    """Changes if a clip in that folder is added, removed or modified."""
    return stamp(input_folder(name))


def output_file(name: str) -> Path:
    """The file of a predictor of this name. Raises ValueError for a name outside the folder."""
    name = name.strip().removesuffix(".safetensors")
    path = inside(folder_of(FOLDER), name, "name")
    return path.with_name(f"{path.name}.safetensors")


def train_in_host(
    job: TrainingJob, untrained: Predictor, clip_vision, folder: str, name: str
) -> tuple[Predictor, TrainedPredictor]:
    """Train on a folder inside the host's input folder; the predictor and unfinished runs are in the host's folders.

    Raises ValueError for a predictor that is trained already, and like `run`.
    """
    if untrained.network is not None:
        raise ValueError("the predictor is already trained; set predictor to none in Load Motion Predictor.")
    check_clip_vision(untrained.encoder, clip_vision)
    clips, target = clips_in(input_folder(folder)), output_file(name)
    bars: dict[str, comfy.utils.ProgressBar] = {}

    def report(kind: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bars.setdefault(kind, comfy.utils.ProgressBar(total)).update_absolute(done, total)

    work = Path(folder_paths.get_output_directory()) / WORK
    trained = run(job, TokenSpec(untrained.encoder, clip_vision), clips, target, work, report)
    return load_predictor(target.relative_to(folder_of(FOLDER)).as_posix(), untrained.encoder), trained


def run(
    job: TrainingJob, tokens: TokenSpec, clips: Sequence[Path], target: Path, work: Path, report: Report
) -> TrainedPredictor:
    """Train on video files and write `target`, with the validation result in its metadata, good or not.

    work: folder for tokens, latents and unfinished runs. A training whose `target` exists is not repeated.

    Unusable files are skipped and change nothing, see `clips.usable`. Raises ValueError if all are, for a video model
    that does not fit, and if `target` is the file of another training.
    """
    if not clips:
        raise ValueError(f"the folder has no clips; video files are expected ({', '.join(SUFFIXES)}).")
    config, data = job.network, job.data
    if config.frames < data.frames:
        raise ValueError(
            f"windows have {data.frames} frames, and the predictor's position table has {config.frames} rows; "
            "use shorter windows."
        )
    settings = job.active_video_model
    video = None if settings is None else FrozenVideo(settings, config)
    paths, latents = token_paths(tokens, clips, data.stride, work / "tokens"), []
    numbers = usable(clips, data.stride, paths)
    clips, paths = [clips[number] for number in numbers], [paths[number] for number in numbers]
    metadata = {
        "train": asdict(job.train),
        "data": asdict(data),
        "cosine_loss_weight": job.cosine_loss_weight,
    }
    if video is not None:
        metadata["video_model"] = video.metadata
        latents = latent_paths(video.settings.vae, video.settings.resolution, clips, data.stride, work / "latents")
    key = digest([metadata, asdict(config), [path.name for path in (*paths, *latents)]])
    if target.exists():
        stated = read_training(read_metadata(target))
        if stated.get("run") != key:
            raise ValueError(f"{target.name} exists and is of another training; choose another name.")
        return TrainedPredictor(target, ValidationResult(**stated["figures"]), stated["log"])
    token_clips = make_tokens(tokens, clips, data.stride, paths, report)
    parts = training.split_clips(token_clips, data.validation_split, job.train.seed)
    learning = partial(learn, job, *parts, work / key / STATE, report)
    if video is None:
        result, log, weights = learning()
    else:
        make_latents(video.settings.vae, video.settings.resolution, clips, data.stride, latents, report)
        result, log, weights = video.run(dict(zip(paths, latents, strict=True)), memory_of(job), learning)
    metadata |= {"run": key, "tokens_of": tokens.encoder.name, "clips": len(clips), **result_metadata(result, log)}
    write(target, weights, {**write_config(config), TRAINING: json.dumps(metadata)})
    shutil.rmtree(work / key, ignore_errors=True)
    logging.info("StoryReel: %s. %s", target.name, result.summary)
    return TrainedPredictor(target, result, log)


def result_metadata(result: ValidationResult, log: list[dict]) -> dict:
    """What a predictor's file states about its validation."""
    stated = {"beats_interpolation": result.beats_interpolation, "verdict": result.summary}
    return stated | {"figures": asdict(result), "log": log}


@torch.inference_mode(False)
@torch.enable_grad()
def learn(
    job: TrainingJob,
    clips: Sequence[TokenClip],
    validation_clips: Sequence[TokenClip],
    state: Path,
    report: Report,
    video: VideoError | None = None,
) -> tuple[ValidationResult, list[dict], dict[str, Tensor]]:
    """(the validation result, the log, the weights in half precision)

    state: the file of an unfinished run. video: the error of a loaded video model, which left the `memory_of` the
    training free; it counts for the first window of a batch.
    """
    config, frames = job.network, job.data.frames
    batches = training.TokenBatchSampler(clips, config, frames)
    network, device = seeded(lambda: MotionPredictor(config), job.train.seed), comfy.model_management.get_torch_device()
    if video is None:
        comfy.model_management.free_memory(memory_of(job), device)

    def loss(network, generator) -> Tensor:
        batch = batches.sample(job.train.batch_size, generator).to(device)
        error = video
        video_loss = None if error is None else lambda predicted: error(predicted[0], *batch.windows[0], generator)
        return training.loss(network, batch, job.cosine_loss_weight, video_loss)

    def validate(network) -> ValidationResult:
        return training.validate(network, validation_clips, config, frames)

    average, log = train(
        network.to(device),
        loss,
        job.train,
        state,
        lambda network: {"mse": validate(network).mse},
        lambda step: report("step", step, job.train.steps),
    )
    report("step", job.train.steps, job.train.steps)
    weights = {key: t.half() for key, t in average.state_dict().items()}
    average.load_state_dict(weights)  # the saved weights are evaluated
    return validate(average), log, weights


def memory_of(job: TrainingJob) -> int:
    """Approximate bytes that training takes on its device."""
    config = job.network
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in MotionPredictor(config).parameters())
    kept = job.train.batch_size * job.data.frames * config.tokens * config.width * config.depth
    return BYTES_PER_WEIGHT * weights + BYTES_PER_CHANNEL * kept
