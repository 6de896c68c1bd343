"""A story's shots, one after the other: each is on disk before the next begins, and none is made twice."""

import hashlib
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
from comfy_api.latest import InputImpl, Types
from comfy_execution.graph_utils import GraphBuilder, is_link
from torch import Tensor

from ..core.video import files
from .conditioning import pick_row
from .dynamicrafter_decode import decode_clip, takes_references

NODE = "StoryReelAnimateStory"
FOLDER = Path("story", "shots")  # in the host's output folder
MODES = ("interpolate", "animate")


def run_key(prompt, node: str) -> str:
    """A name for what a node will compute: of its inputs, all that stands before it, and the files that these name.

    prompt: the host's DynamicPrompt. Node ids do not count, so a graph that was saved, shared or laid out anew keeps
    its key. A file counts with its size and its time of change.
    """
    known: dict[str, str] = {}

    def digest(id: str) -> str:
        if id not in known:
            told = prompt.get_node(id)
            inputs = {name: value_of(value) for name, value in sorted(told["inputs"].items())}
            known[id] = _hash([told["class_type"], inputs])
        return known[id]

    def value_of(value):
        return [digest(value[0]), value[1]] if is_link(value) else [value, _stamps(value)]

    return digest(node)


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _stamps(value) -> list:
    """(size, time of change) of every file of the host that a widget's value may name."""
    if not isinstance(value, str) or not value or "\n" in value:
        return []
    found = {folder_paths.get_full_path(kind, value) for kind in folder_paths.folder_names_and_paths}
    if folder_paths.exists_annotated_filepath(value):
        found.add(folder_paths.get_annotated_filepath(value))
    paths = [Path(path) for path in sorted(filter(None, found)) if Path(path).is_file()]
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def expand(key: str, keyframes: Tensor, mode: str, told: dict) -> tuple[dict, list]:
    """The graph that makes the shots still missing, and the link to its VIDEO.

    keyframes: [K, H, W, 3]: K - 1 transitions, or in mode "animate" K shots. told: the other inputs of
    StoryReelAnimateStory.

    Raises ValueError for too few keyframes.
    """
    count = len(keyframes) - (mode == "interpolate")
    if count < 1:
        raise ValueError(f"{NODE}: keyframes holds {len(keyframes)} picture; interpolate needs at least 2.")
    graph = GraphBuilder()
    run = _hash([key, graph.prefix.split(".")[-3:]])  # of a list of stories, each call has its own
    last = ""
    for number in range(count):
        if not shot_path(run, number).exists():
            last = _add_shot(graph, run, number, last, keyframes, mode, told)
    joined = graph.node(
        "StoryReelJoinShots", run=run, count=count, after=last, shared_ends=mode == "interpolate", fps=told["fps"]
    )
    return graph.finalize(), joined.out(0)


def _add_shot(graph: GraphBuilder, run: str, number: int, after, keyframes: Tensor, mode: str, told: dict) -> list:
    """One branch, from its keyframes to its file, which begins once `after` is there; the link that says it is done."""
    ends = graph.node("StoryReelTakeKeyframes", images=keyframes, index=number, after=after)
    pictures = {"start_image": ends.out(0)} | ({"end_image": ends.out(1)} if mode == "interpolate" else {})
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
        noise=graph.node("RandomNoise", noise_seed=(told["seed"] + number) % 2**64).out(0),
        guider=guider.out(0),
        sampler=told["sampler"],
        sigmas=told["sigmas"],
        latent_image=conditioning.out(3),
    )
    kept = graph.node(
        "StoryReelKeepShot",
        samples=sampled.out(0),
        vae=told["vae"],
        run=run,
        number=number,
        fps=told["fps"],
        **pictures,
    )
    return kept.out(0)


def shot_path(run: str, number: int | str) -> Path:
    """Where a shot lies, or by its name another file of the same run. Raises ValueError for a run that is no key."""
    if not re.fullmatch(r"[0-9a-f]{24}", run):
        raise ValueError(f"{NODE}: {run!r} is no key of a run.")
    name = number if isinstance(number, str) else f"shot_{number + 1:03}"
    return Path(folder_paths.get_output_directory()) / FOLDER / run / f"{name}.mkv"


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


def join(run: str, count: int, shared_ends: bool, fps: float) -> "ShotFile":
    """The shots of a run as one VIDEO, read and written frame by frame."""

    def frames() -> Iterator[np.ndarray]:
        for number in range(count):
            comfy.model_management.throw_exception_if_processing_interrupted()
            shot = files.read_frames(shot_path(run, number))
            if number and shared_ends:
                next(shot)
            yield from shot

    whole = shot_path(run, "all")
    files.write_frames(whole, frames(), rate_of(fps))
    return ShotFile(str(whole))


def rate_of(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1000)


class ShotFile(InputImpl.VideoFromFile):
    """A VIDEO in a file of `write_frames`: exact as frames, H.264 in MP4 where nothing else is asked for."""

    def get_components(self) -> Types.VideoComponents:
        images = files.to_pictures(files.read_frames(Path(self.get_stream_source())))
        return Types.VideoComponents(images=images, audio=None, frame_rate=self.get_frame_rate())

    def save_to(self, path, format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO, **kwargs):
        if codec == Types.VideoCodec.AUTO:
            codec = Types.VideoCodec.H264  # else the host would copy this file's own coding into the user's
        super().save_to(path, format, codec, **kwargs)
