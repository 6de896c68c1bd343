"""A story's shots, one after the other: each is on disk before the next begins, and none is made twice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import numpy as np
from comfy.samplers import KSampler
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ..core.video import files
from .conditioning import pick_row
from .dynamicrafter_decode import decode_clip, takes_references
from .runs import name_of, run_folder
from .video_file import ExactVideo, rate_of

BY_DYNAMICRAFTER, BY_MOTION = "StoryReelAnimateStory", "StoryReelAnimateStoryByMotion"
MODES = ("interpolate", "animate")
UNCOUNTED = ("fps",)  # inputs that the key of a run leaves out: they change no frame of a shot
SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS


@dataclass(frozen=True)
class _Shots:
    """What a node makes: what it calls it, and whether each goes from a picture to the next. sample(graph, number,
    pictures) puts what samples a shot between its pictures and its file, and returns the link to its LATENT."""

    node: str
    kind: str
    transitions: bool
    sample: Callable[[GraphBuilder, int, dict], list]


def expand_dynamicrafter(run: str, keyframes: Tensor, mode: str, told: dict) -> tuple[dict, list]:
    """The graph that makes the shots still missing with DynamiCrafter, and the link to its VIDEO.

    run: see `runs.run_key`. keyframes: [K, H, W, 3]: K - 1 transitions, or in mode "animate" K shots. told: the other
    inputs of StoryReelAnimateStory.

    Raises ValueError for too few keyframes.
    """

    def sample(graph: GraphBuilder, number: int, pictures: dict) -> list:
        conditioning = graph.node(
            "StoryReelDynamiCrafterConditioning",
            positive=pick_row(told["positive"], number),
            negative=pick_row(told["negative"], number),
            mode=mode,
            **pictures,
            **{name: told[name] for name in ("clip_vision", "vae", "width", "height", "frames", "fs")},
        )
        guider = graph.node(
            "StoryReelDynamiCrafterGuider",
            model=told["model"],
            positive=conditioning.out(0),
            image_only=conditioning.out(1),
            negative=conditioning.out(2),
            **{name: told[name] for name in ("text_scale", "image_scale", "rescale")},
        )
        sampled = graph.node(
            "SamplerCustomAdvanced",
            noise=graph.node("RandomNoise", noise_seed=_seed(told, number)).out(0),
            guider=guider.out(0),
            sampler=told["sampler"],
            sigmas=told["sigmas"],
            latent_image=conditioning.out(3),
        )
        return sampled.out(0)

    shots = _Shots(BY_DYNAMICRAFTER, mode, mode == "interpolate", sample)
    return _expand(shots, run, keyframes, told)


def expand_motion(run: str, keyframes: Tensor, told: dict) -> tuple[dict, list]:
    """The graph that makes the transitions still missing along predicted motion, and the link to its VIDEO.

    run, keyframes: as above. told: the other inputs of StoryReelAnimateStoryByMotion.

    Raises ValueError for too few keyframes.
    """
    decoder = dict(told["decoder"])
    chosen = {"decoder": decoder.pop("decoder"), **{f"decoder.{name}": value for name, value in decoder.items()}}

    def sample(graph: GraphBuilder, number: int, pictures: dict) -> list:
        motion = graph.node(
            "StoryReelPredictMotion",
            start=pictures["start_image"],
            end=pictures["end_image"],
            easing="linear",
            hold_start=0,
            hold_end=0,
            strength=1.0,
            **{name: told[name] for name in ("predictor", "clip_vision", "frames")},
        )
        following = graph.node("StoryReelApplyMotion", model=told["model"], motion=motion.out(0), **chosen)
        empty = graph.node("EmptyLatentImage", width=told["width"], height=told["height"], batch_size=told["frames"])
        sampled = graph.node(
            "KSampler",
            model=following.out(0),
            positive=pick_row(told["positive"], number),
            negative=pick_row(told["negative"], number),
            latent_image=empty.out(0),
            seed=_seed(told, number),
            denoise=1.0,
            **{name: told[name] for name in ("steps", "cfg", "sampler_name", "scheduler")},
        )
        return sampled.out(0)

    return _expand(_Shots(BY_MOTION, "a transition", True, sample), run, keyframes, told)


def _seed(told: dict, number: int) -> int:
    return (told["seed"] + number) % 2**64


def _expand(shots: _Shots, run: str, keyframes: Tensor, told: dict) -> tuple[dict, list]:
    """One branch for each missing shot, from its keyframes to its file, which begins once the shot before is there."""
    least = 1 + shots.transitions
    if len(keyframes) < least:
        held = f"{len(keyframes)} picture{'s' * (len(keyframes) != 1)}"
        raise ValueError(f"{shots.node}: keyframes holds {held}; {shots.kind} needs at least {least}.")
    graph, count = GraphBuilder(), len(keyframes) - shots.transitions
    last = ""
    for number in range(count):
        if shot_path(run, number).exists():
            continue
        ends = graph.node("StoryReelTakeKeyframes", images=keyframes, index=number, after=last)
        pictures = {"start_image": ends.out(0)} | ({"end_image": ends.out(1)} if shots.transitions else {})
        kept = graph.node(
            "StoryReelKeepShot",
            samples=shots.sample(graph, number, pictures),
            vae=told["vae"],
            run=run,
            number=number,
            fps=told["fps"],
            **pictures,
        )
        last = kept.out(0)
    joined = graph.node(
        "StoryReelJoinShots", run=run, count=count, after=last, shared_ends=shots.transitions, fps=told["fps"]
    )
    return graph.finalize(), joined.out(0)


def shot_path(run: str, number: int | str) -> Path:
    """Where a shot lies, or by its name another file of the same run. Raises ValueError for a run that is no key."""
    name = number if isinstance(number, str) else f"shot_{number + 1:03}"
    return run_folder("shots", run) / f"{name}.avi"


def take(images: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Keyframe `index` of [K, H, W, 3] and the one after it; the last is followed by itself."""
    return images[index : index + 1], images[min(index + 1, len(images) - 1)][None]


def keep(samples: Tensor, vae, start: Tensor, end: Tensor | None, run: str, number: int, fps: float) -> None:
    """Decode a shot and write it, with ToonCrafter's decoder where the VAE has it and both ends are known."""
    if end is not None and takes_references(vae):
        frames = decode_clip(vae, samples, start, end)
    else:
        frames = vae.decode(samples)
    files.write_frames(shot_path(run, number), files.to_bytes(frames), rate_of(fps))


def join(run: str, count: int, shared_ends: bool, fps: float) -> ExactVideo:
    """The shots of a run as one VIDEO, read and written frame by frame."""

    def frames() -> Iterator[np.ndarray]:
        for number in range(count):
            comfy.model_management.throw_exception_if_processing_interrupted()
            shot = files.read_frames(shot_path(run, number))
            if number and shared_ends:
                next(shot)
            yield from shot

    rate = rate_of(fps)
    whole = shot_path(run, f"all_{name_of([count, shared_ends, str(rate)])[:8]}")
    newest = max(shot_path(run, number).stat().st_mtime_ns for number in range(count))
    if not whole.exists() or whole.stat().st_mtime_ns < newest:
        files.write_frames(whole, frames(), rate)
    return ExactVideo(str(whole))
