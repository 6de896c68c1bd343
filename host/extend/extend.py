"""Extends a clip chunk by chunk. Each chunk is on disk before the next begins, and none is generated twice.

The name of a run's folder depends on everything but the prompts. The name of a chunk's files depends on the chunk
before and on its own prompts: another prompt keeps the chunks before it, and more chunks keep them all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...core.diffusion.autoregression import extend_by_chunks
from ...core.inputs import check_finite
from ...core.video import files
from ...core.video.color import match_colors
from ..common import messages, run_folder
from ..common.conditioning import pick_row
from ..common.messages import show_progress
from ..video import file
from .drift import Departure, DriftLimits, DriftWatch
from .extender import ChunkInputs, Extender
from .families import extender_of

PROMPTS = ("positive", "negative")  # not part of a run's name: each chunk's name contains its own prompts
NOT_READ = "Extend Video: output_images is off. Switch it on to read the frames into memory, or use the VIDEO output."


@dataclass(frozen=True)
class Start:
    """What is read of a clip before it is extended. clip: its sound is cut to its frames. count: of its frames. last:
    its last frames, [overlap, H, W, 3]. frame: the one with the number of the anchor, [H, W, 3]; None: beyond its end.
    anchor: [N, H', W', 3], that frame or images in its place. name: a digest of its content."""

    clip: file.FrameSource
    count: int
    last: Tensor
    frame: Tensor | None
    anchor: Tensor
    name: str


def read_start(clip: file.FrameSource, overlap: int, anchor: int, reference: Tensor | None = None) -> Start:
    """Read a clip once. anchor: the number of a frame, from the end if negative. reference: images in its place.

    Raises ValueError for a clip that is too short.
    """
    name, count, kept, chosen = run_folder.FramesName(), 0, [], None
    backwards = -anchor if anchor < 0 else 0
    for frame in clip.frames():
        name.add([frame])
        if count == anchor:
            chosen = frame
        count += 1
        kept = [*kept, frame][-max(overlap, backwards) :]
    if count < overlap:
        raise ValueError(f"frames contains {count} frames; overlap {overlap} needs at least {overlap}.")
    if backwards and backwards <= count:
        chosen = kept[-backwards]
    frame = None if chosen is None else file.to_tensor(chosen)
    if reference is not None:
        images = reference[..., :3].cpu().float()
    elif frame is not None:
        images = frame[None]
    else:
        raise ValueError(f"anchor is {anchor}, but frames contains {count} frames.")
    last = torch.stack([file.to_tensor(frame) for frame in kept[-overlap:]])
    clip = replace(clip, sound=clip.sound and clip.sound.until(count / clip.rate))
    name = run_folder.name_of([str(name), run_folder.content_name(images, "")])
    return Start(clip, count, last, frame, images, name)


class Store:
    """The chunks of a run on disk: lossless 8-bit frames, and the last frames at full precision, from which the next
    chunk continues. names: one for each chunk, in order."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder, self.names = folder, names

    def path(self, number: int, suffix: str) -> Path:
        return self.folder / f"chunk_{number + 1:04}_{self.names[number]}.{suffix}"

    def finished(self) -> int:
        """The number of finished chunks, counted from the first."""
        there = (self.path(number, "avi").exists() for number in range(len(self.names)))
        return next((number for number, found in enumerate(there) if not found), len(self.names))

    def save(self, number: int, chunk: Tensor, overlap: int, rate) -> None:
        """Write a chunk, whose first `overlap` frames repeat those before. The AVI is written last: if it exists, the
        chunk is complete."""
        files.write_tensor(self.path(number, "npy"), chunk[-overlap:])
        files.write_frames(self.path(number, "avi"), files.to_bytes(chunk[overlap:]), rate)

    def last(self, number: int) -> Tensor:
        return files.read_tensor(self.path(number, "npy"))

    def frames(self, number: int) -> Iterator[np.ndarray]:
        return files.read_frames(self.path(number, "avi"))


class Progress:
    """The progress of a run in the host: a bar over all steps of all chunks, a preview, and a line of text.

    node: its id in the host; None: no text.
    """

    def __init__(self, model, chunks: int, steps: int, node: str | None):
        self.chunks, self.steps, self.node = chunks, steps, node
        self.bar = comfy.utils.ProgressBar(chunks * steps)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def of_chunk(self, number: int):
        """The callback of the sampler."""

        def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview = None
            if self.previewer is not None:
                time = 0 if denoised.ndim == 4 else 2
                preview = self.previewer.decode_latent_to_preview_image("JPEG", denoised.narrow(time, -1, 1))
            self.show(f"chunk {number + 1} of {self.chunks}, step {step + 1} of {steps}")
            self.bar.update_absolute(number * self.steps + step + 1, preview=preview)

        return callback

    def begin(self, finished: int) -> None:
        if finished:
            self.show(f"{finished} of {self.chunks} chunks were on disk")
            self.bar.update_absolute(finished * self.steps)

    def show(self, text: str) -> None:
        if self.node is not None:
            show_progress(text, self.node)


def chunk_names(prompt, node: str, extender: Extender, count: int) -> list[str]:
    """A name for each chunk, from the name of the chunk before and from what the model reads of its own prompts."""
    prompts = extender.inputs.positive, extender.inputs.negative
    upstream = list(run_folder.upstream_keys(prompt, node, PROMPTS).values())
    names, name = [], ""
    for number in range(count):
        rows = [
            run_folder.content_name(prompt and extender.read(pick_row(prompt, number)), key)
            for prompt, key in zip(prompts, upstream, strict=True)
        ]
        name = run_folder.name_of([name, rows])
        names.append(name[:12])
    return names


def generate_chunks(
    extender: Extender, start: Start, store: Store, color_match: float, progress: Progress | None = None
) -> Iterator[Tensor]:
    """The new frames of each chunk that is not on disk yet, one chunk at a time, once it is on disk."""

    def generate(number: int, before: Tensor, anchor: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        chunk = extender.generate(number, before, anchor, progress and progress.of_chunk(number))
        chunk = match_colors(chunk, anchor, color_match)
        check_finite(f"chunk {number + 1}", chunk)  # before it counts as finished
        store.save(number, chunk, extender.overlap, start.clip.rate)
        return chunk

    finished = store.finished()
    if progress is not None:
        progress.begin(finished)
    before = store.last(finished - 1) if finished else start.last
    return extend_by_chunks(before, start.anchor, extender.overlap, range(finished, len(store.names)), generate)


def sample_chunks(
    extender: Extender, start: Start, store: Store, color_match: float, watch: DriftWatch | None, progress: Progress
) -> tuple[int, Departure | None]:
    """(how many chunks belong to the video, why there are no more of them), once these are on disk.

    A chunk that has drifted is on disk, too, and measured again from there: a run stops at the same chunk each time.
    """
    finished, chunks = store.finished(), generate_chunks(extender, start, store, color_match, progress)
    for number in range(len(store.names)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if number >= finished:
            next(chunks)
        departure = watch and watch.departure(store.frames(number))
        if departure is not None:
            return number, departure
    return len(store.names), None


def all_frames(start: Start, store: Store) -> Iterator[np.ndarray]:
    """The clip and its chunks, uint8, one frame at a time."""
    for frame in start.clip.frames():
        yield file.to_bytes(frame)
    for number in range(len(store.names)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield from store.frames(number)


def extend(
    prompt, node: str, inputs: ChunkInputs, *, frames, fps: float, chunks: int, anchor: int, color_match: float,
    output_images: bool, limits: DriftLimits,
):  # fmt: skip
    """(VIDEO, IMAGE) of Extend Video. prompt: the host's DynamicPrompt. node: its id.

    Raises ValueError for inputs that do not go together.
    """
    clip = file.open_video(frames, fps)
    extender = extender_of(replace(inputs, frame_rate=float(clip.rate)))
    reference = inputs.reference_image
    limits.check(inputs.clip_vision)
    unread = reference is not None or (anchor != 0 and not limits)
    for message in extender.describe_ignored(unread and not color_match):
        messages.warn(message)
    start = read_start(clip, extender.overlap, anchor, reference)
    extender.check_size(start.last.shape[2], start.last.shape[1])
    key = {name: value for name, value in vars(inputs).items() if name not in (*PROMPTS, "frame_rate")}
    if extender.reads_frame_rate:
        key["frame_rate"] = extender.inputs.frame_rate
    key |= {"chunk_length": extender.chunk_length, "overlap": extender.overlap, "color_match": color_match}
    run = run_folder.name_of([run_folder.run_key(prompt, node, key), start.name])
    store = Store(run_folder.run_folder("long", run), chunk_names(prompt, node, extender, chunks))
    progress = Progress(inputs.model, chunks, len(inputs.sigmas) - 1, node)
    watch = None
    if limits:
        if start.frame is None:
            raise ValueError(
                f"anchor is {anchor}, but frames contains {start.count} frames, so drift has none to be measured from."
            )
        watch = DriftWatch(limits, start.frame, inputs.clip_vision)
    kept, departure = sample_chunks(extender, start, store, color_match, watch, progress)
    if departure is not None:
        place = start.count + kept * (extender.chunk_length - extender.overlap) + departure.frame
        messages.warn(
            f"Stopped at chunk {kept + 1} of {chunks}, which drifts from frame {anchor} of the clip, at frame {place} "
            f"of the video: {departure.text}. The video ends before this chunk. With another limit the run resumes."
        )
    store = Store(store.folder, store.names[:kept])
    whole = store.folder / f"video_{run_folder.name_of([store.names, str(clip.rate)])[:12]}.avi"
    if not whole.exists():
        files.write_frames(whole, all_frames(start, store), clip.rate, start.clip.sound)
    video = file.ExactVideo(str(whole))
    return video, files.to_images(all_frames(start, store)) if output_images else ExecutionBlocker(NOT_READ)
