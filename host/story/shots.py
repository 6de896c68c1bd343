"""A story's shots on disk: the name of each, how one is kept, and how all of them become one VIDEO."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy.samplers import KSampler
from torch import Tensor

from ...core.inputs import check_finite, shown
from ...core.video import files
from ...core.video.sound import Sound, read_sound
from ..common import run_folder
from ..common.clip_vision import GRAY
from ..common.conditioning import pick_row
from ..dynamicrafter.decode import decode_clip, takes_references
from ..video.file import ExactVideo, rate_of

SHOT = re.compile(r"shot_\d{3,6}_[0-9a-f]{12}")
SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS


def shot_names(
    prompt,
    node: str,
    keyframes: Tensor,
    conditioning: dict[str, list],
    seeds: Sequence[int],
    transitions: bool,
    lengths: Sequence[int] = (),
) -> list[str]:
    """A name for each shot: its number, and a hash of the images, prompts and seed that it is made from.

    So a changed prompt or image changes the names of its own shots only. prompt: the host's DynamicPrompt. node: the id
    of the node that makes the shots. keyframes: [K, H, W, 3]. conditioning: {input: CONDITIONING of one row a shot}.
    seeds: one a shot. transitions: whether a shot goes from a keyframe to the next one. lengths: frames of each shot,
    where they differ.
    """
    upstream, names = run_folder.upstream_keys(prompt, node, conditioning), []
    for number, seed in enumerate(seeds):
        images = keyframes[number : number + 1 + transitions]
        rows = [run_folder.content_name(pick_row(cond, number), upstream[name]) for name, cond in conditioning.items()]
        length = list(lengths[number : number + 1])
        sources = run_folder.name_of([run_folder.content_name(images, ""), rows, seed, *length])
        names.append(f"shot_{number + 1:03}_{sources[:12]}")
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


def given_frames(start: Tensor, end: Tensor | None, frames: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """(images [frames, height, width, 3], masks [frames, height, width]): the images in the first and the last place,
    where the mask is 0, and gray everywhere else."""
    images, masks = torch.full((frames, height, width, 3), GRAY), torch.ones(frames, height, width)
    for place, image in ((0, start), (-1, end)):
        if image is not None:
            pixels = image[:1, ..., :3].movedim(-1, 1)
            images[place] = comfy.utils.common_upscale(pixels, width, height, "bilinear", "center").movedim(1, -1)[0]
            masks[place] = 0
    return images, masks


def keep(
    samples: Tensor, vae, start: Tensor, end: Tensor | None, run: str, shot: str, fps: float, audio: dict | None = None
) -> None:
    """Decode a shot and write it, with ToonCrafter's decoder where the VAE has it and both ends are known.

    audio: AUDIO of the shot. Raises ValueError for frames with NaN: they would be kept as finished.
    """
    path = shot_path(run, shot)
    if end is not None and takes_references(vae):
        frames = decode_clip(vae, samples, start, end)
    else:
        frames = vae.decode(samples)
        frames = frames.flatten(0, -4)  # video models add a batch of one
    check_finite("the decoded shot", frames)
    rate, sound = rate_of(fps), None
    if audio is not None:
        sound = Sound(audio["waveform"][0].cpu().float().numpy(), int(audio["sample_rate"]))
        sound = sound.lasting(len(frames) / rate)
    files.write_frames(path, files.to_bytes(frames), rate, sound)


def join(run: str, shots: Sequence[str], shared_ends: bool, fps: float) -> ExactVideo:
    """The shots of a run as one VIDEO, read and written frame by frame, with their sounds one after the other."""
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
        files.write_frames(whole, frames(), rate, _join_sounds(paths, shared_ends, rate))
    return ExactVideo(str(whole))


def _join_sounds(paths: Sequence[Path], shared_ends: bool, rate: Fraction) -> Sound | None:
    """The sounds of shots one after the other, without those of the frames that are left out; None: they have none."""
    sounds = [sound for path in paths if (sound := read_sound(str(path))) is not None]
    if len(sounds) < len(paths):
        return None
    parts = [
        sound.samples[:, int(sound.rate / rate) if number and shared_ends else 0 :]
        for number, sound in enumerate(sounds)
    ]
    return Sound(np.concatenate(parts, axis=1), sounds[0].rate)
