"""A story's shots, one after the other: each is on disk before the next begins, and none is made twice."""

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSampler
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ...core.inputs import check_finite, shown
from ...core.motion.trajectory import Trajectory
from ...core.video import files
from ..common import run_folder
from ..common.conditioning import pick_row
from ..dynamicrafter import conditioning as conditioning
from ..dynamicrafter.decode import decode_clip, takes_references
from ..dynamicrafter.model import parts_of
from ..motion.apply import apply_to_sd15
from ..motion.predict import check_given
from ..video.file import ExactVideo, rate_of
from .shot_progress import say_kept, with_progress

BY_DYNAMICRAFTER, BY_MOTION = "StoryReelAnimateStory", "StoryReelAnimateStoryByMotion"
MODES = ("interpolate", "animate")
PROMPTS = ("positive", "negative")
# Inputs that the key of a run leaves out: a shot has its own images, prompts and seed in its own name, and the frame
# rate changes no frame of it.
UNCOUNTED = ("keyframes", *PROMPTS, "seed", "fps")
SHOT = re.compile(r"shot_\d{3,6}_[0-9a-f]{12}")
SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS


@dataclass(frozen=True)
class _Shots:
    """What a node makes: what it calls it, and whether each goes from a picture to the next. sample(graph, number,
    model, pictures) puts what samples a shot by a MODEL between its pictures and its file, and returns the link to its
    LATENT."""

    node: str
    kind: str
    transitions: bool
    sample: Callable[[GraphBuilder, int, ModelPatcher, dict], list]


def check_dynamicrafter(told: dict) -> None:
    """Raise ValueError for inputs of StoryReelAnimateStory that make no shot, whatever the keyframes are."""
    model = parts_of(told["model"])
    conditioning.check_shot(
        model, told["clip_vision"], told["vae"], told["mode"], told["width"], told["height"], told["frames"]
    )
    for name in PROMPTS:
        model.check_text(told[name][0][0])


def check_motion(told: dict, decoder: dict) -> None:
    """Raise ValueError for inputs of StoryReelAnimateStoryByMotion that make no shot, whatever the keyframes are.

    decoder: its choices as `apply_to_sd15` takes them.
    """
    if told["vae"] is None:
        raise ValueError(f"{BY_MOTION}: vae is empty, the checkpoint carries none; use Load VAE.")
    predictor, frames = told["predictor"], told["frames"]
    check_given(predictor, 2)
    apply_to_sd15(
        told["model"], Trajectory(torch.zeros(frames, *predictor.space.shape), predictor.space.space), **decoder
    )


def expand_dynamicrafter(prompt, node: str, told: dict) -> tuple[dict, list]:
    """The graph that makes the shots still missing with DynamiCrafter, and the link to its VIDEO.

    prompt: the host's DynamicPrompt. node: the id of StoryReelAnimateStory in it. told: its inputs. keyframes
    [K, H, W, 3] make K - 1 transitions, or in mode "animate" K shots.

    Raises ValueError for too few keyframes.
    """
    mode = told["mode"]

    def sample(graph: GraphBuilder, number: int, model: ModelPatcher, pictures: dict) -> list:
        shown = graph.node(
            "StoryReelDynamiCrafterConditioning",
            positive=pick_row(told["positive"], number),
            negative=pick_row(told["negative"], number),
            mode=mode,
            **pictures,
            **{name: told[name] for name in ("clip_vision", "vae", "width", "height", "frames", "fs")},
        )
        guider = graph.node(
            "StoryReelDynamiCrafterGuider",
            model=model,
            positive=shown.out(0),
            image_only=shown.out(1),
            negative=shown.out(2),
            **{name: told[name] for name in ("cfg_text", "cfg_image", "cfg_rescale")},
        )
        sampled = graph.node(
            "SamplerCustomAdvanced",
            noise=graph.node("RandomNoise", noise_seed=_seed(told, number)).out(0),
            guider=guider.out(0),
            sampler=told["sampler"],
            sigmas=told["sigmas"],
            latent_image=shown.out(3),
        )
        return sampled.out(0)

    return _expand(_Shots(BY_DYNAMICRAFTER, mode, mode == "interpolate", sample), prompt, node, told)


def expand_motion(prompt, node: str, told: dict) -> tuple[dict, list]:
    """The graph that makes the transitions still missing along predicted motion, and the link to its VIDEO.

    As above, for StoryReelAnimateStoryByMotion.

    Raises ValueError for too few keyframes.
    """
    decoder = dict(told["decoder"])
    chosen = {"decoder": decoder.pop("decoder"), **{f"decoder.{name}": value for name, value in decoder.items()}}

    def sample(graph: GraphBuilder, number: int, model: ModelPatcher, pictures: dict) -> list:
        motion = graph.node(
            "StoryReelPredictMotion",
            start_image=pictures["start_image"],
            end_image=pictures["end_image"],
            easing="linear",
            hold_start=0,
            hold_end=0,
            strength=1.0,
            **{name: told[name] for name in ("predictor", "clip_vision", "frames")},
        )
        following = graph.node("StoryReelApplyMotion", model=model, motion=motion.out(0), **chosen)
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

    return _expand(_Shots(BY_MOTION, "a transition", True, sample), prompt, node, told)


def _seed(told: dict, number: int) -> int:
    return (told["seed"] + number) % 2**64


def _expand(shots: _Shots, prompt, node: str, told: dict) -> tuple[dict, list]:
    """One branch for each missing shot, from its keyframes to its file, which begins once the shot before is there."""
    keyframes, least = told["keyframes"], 1 + shots.transitions
    if len(keyframes) < least:
        held = f"{len(keyframes)} picture{'s' * (len(keyframes) != 1)}"
        raise ValueError(f"{shots.node}: keyframes holds {held}; {shots.kind} needs at least {least}.")
    run = run_folder.run_key(prompt, node, {name: value for name, value in told.items() if name not in UNCOUNTED})
    names = shot_names(prompt, node, told, shots.transitions)
    graph, last = GraphBuilder(), ""
    missing = [number for number, name in enumerate(names) if not shot_path(run, name).exists()]
    say_kept(node, len(names) - len(missing), len(names))
    # The host keeps the results of inner nodes, too. What is asked for here is missing, whatever is kept of it.
    expansion = uuid.uuid4().hex
    for number in missing:
        ends = graph.node("StoryReelTakeKeyframes", images=keyframes, index=number, after=last, expansion=expansion)
        pictures = {"start_image": ends.out(0)} | ({"end_image": ends.out(1)} if shots.transitions else {})
        kept = graph.node(
            "StoryReelKeepShot",
            samples=shots.sample(graph, number, with_progress(told["model"], node, number, len(names)), pictures),
            vae=told["vae"],
            run=run,
            shot=names[number],
            fps=told["fps"],
            expansion=expansion,
            **pictures,
        )
        last = kept.out(0)
    joined = graph.node(
        "StoryReelJoinShots",
        run=run,
        shots=" ".join(names),
        after=last,
        shared_ends=shots.transitions,
        fps=told["fps"],
        expansion=expansion,
    )
    return graph.finalize(), joined.out(0)


def shot_names(prompt, node: str, told: dict, transitions: bool) -> list[str]:
    """A name for each shot: of its number, and of the images, prompts and seed that it is made from.

    So another prompt or image makes its own shots again, and no other ones.
    """
    keyframes, names = told["keyframes"], []
    beyond = {name: run_folder.upstream_key(prompt, node, name) for name in PROMPTS}
    for number in range(len(keyframes) - transitions):
        images = keyframes[number : number + 1 + transitions]
        rows = [run_folder.content_name(pick_row(told[name], number), beyond[name]) for name in PROMPTS]
        made_from = run_folder.name_of([run_folder.content_name(images, ""), rows, _seed(told, number)])
        names.append(f"shot_{number + 1:03}_{made_from[:12]}")
    return names


def shot_path(run: str, shot: str) -> Path:
    """Where a shot of `shot_names` lies. Raises ValueError for a run that is no key, and for another name."""
    if not isinstance(shot, str) or not SHOT.fullmatch(shot):
        raise ValueError(f"shot is {shown(shot)}, which is no name of a shot.")
    return run_folder.run_folder("shots", run) / f"{shot}.avi"


def take(images: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Keyframe `index` of [K, H, W, 3] and the one after it; the last is followed by itself.

    Raises ValueError for an index that the images do not have.
    """
    if index >= len(images):
        raise ValueError(f"index is {index}, and images holds {len(images)}.")
    return images[index : index + 1], images[min(index + 1, len(images) - 1)][None]


def keep(samples: Tensor, vae, start: Tensor, end: Tensor | None, run: str, shot: str, fps: float) -> None:
    """Decode a shot and write it, with ToonCrafter's decoder where the VAE has it and both ends are known.

    Raises ValueError for frames with NaN: they would be kept as finished.
    """
    path = shot_path(run, shot)
    if end is not None and takes_references(vae):
        frames = decode_clip(vae, samples, start, end)
    else:
        frames = vae.decode(samples)
    check_finite("the decoded shot", frames)
    files.write_frames(path, files.to_bytes(frames), rate_of(fps))


def join(run: str, shots: Sequence[str], shared_ends: bool, fps: float) -> ExactVideo:
    """The shots of a run as one VIDEO, read and written frame by frame."""
    paths = [shot_path(run, shot) for shot in shots]

    def frames() -> Iterator[np.ndarray]:
        for number, path in enumerate(paths):
            comfy.model_management.throw_exception_if_processing_interrupted()
            shot = files.read_frames(path)
            if number and shared_ends:
                next(shot)
            yield from shot

    rate = rate_of(fps)
    whole = (
        run_folder.run_folder("shots", run) / f"all_{run_folder.name_of([list(shots), shared_ends, str(rate)])[:8]}.avi"
    )
    if not whole.exists():
        files.write_frames(whole, frames(), rate)
    return ExactVideo(str(whole))
