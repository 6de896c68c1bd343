"""What long videos keep of where they began: with CAM and APM and without, blended or not, and by the last frame alone.

Every video goes on from a drawn clip of 16 frames, whose caption leaves most of the hero's looks open: to keep them is
up to the model. The chunks are made by the functions of StoryReelExtendVideo and StoryReelRandomizedBlending, and a
reader says what their last frames show.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import pack
import torch
from torch import Tensor

pack.load_pack()
from storyreel.core.diffusion import blending  # noqa: E402
from storyreel.core.storyworld import attributes as words  # noqa: E402
from storyreel.core.storyworld import captions, world  # noqa: E402
from storyreel.core.storyworld.attributes import Clip  # noqa: E402

from ..train import export as shipping  # noqa: E402
from ..train.classifier import NOBODY, Reader  # noqa: E402
from ..train.long_clips import LENGTH, MEMORY  # noqa: E402
from .long_video import Seen, watch_video  # noqa: E402
from .pictures import COLOURS, interval, rounded  # noqa: E402
from .video import FRAMES, as_input  # noqa: E402

CHUNKS = 4
STEPS, SPACING, ETA, GUIDANCE = 14, "leading", 1.0, 3.0
LAST_FRAME_STEPS, LAST_FRAME_SPACING, RESCALE = 16, "uniform_trailing", 0.7  # of DynamiCrafter
REFINED = 0.4  # share of the steps that a refinement goes through
DRAWN, LAST_FRAME = "drawn", "dynamicrafter"
STRENGTHS = {"both": (1.0, 1.0), "no-cam": (0.0, 1.0), "no-apm": (1.0, 0.0), "neither": (0.0, 0.0)}  # of CAM and APM
NONE, SHARED, RANDOMIZED = "none", "shared", "randomized"


@dataclass(frozen=True)
class Setting:
    """How a video is made. mode: DRAWN, which is no model's, LAST_FRAME, or of STRENGTHS. chunks: that are added.
    colour: how strongly their colours are pulled to the anchor's. blend: how it is refined afterwards, "" if not."""

    name: str
    mode: str
    chunks: int = CHUNKS
    colour: float = 0.0
    blend: str = ""

    @property
    def new(self) -> int:
        """Frames that a chunk adds."""
        return FRAMES - 1 if self.mode == LAST_FRAME else LENGTH - MEMORY

    @property
    def frames(self) -> int:
        return LENGTH + self.chunks * self.new

    @property
    def borders(self) -> list[int]:
        """First frames of the chunks that were added."""
        return list(range(LENGTH, self.frames, self.new))


def read_setting(name: str) -> Setting:
    """A setting from its name: drawn, both, no-cam, no-apm, neither or dynamicrafter; then what differs, each after a
    dash: chunks-10, colour-0.5, blend-none, blend-shared, blend-randomized.
    Raises ValueError for a name that says something else."""
    match = re.fullmatch(
        rf"({'|'.join([DRAWN, LAST_FRAME, *STRENGTHS])})(?:-chunks-(\d+))?(?:-colour-([\d.]+))?"
        rf"(?:-blend-({NONE}|{SHARED}|{RANDOMIZED}))?",
        name,
    )
    if not match:
        raise ValueError(f'"{name}" is no setting; both, no-cam-chunks-10, both-blend-shared would be some.')
    mode, chunks, colour, blend = match.groups()
    return Setting(name, mode, int(chunks or CHUNKS), float(colour or 0), blend or "")


@dataclass(frozen=True)
class Task:
    """A clip to go on from: the truth, its first frames, the caption."""

    clip: Clip
    caption: str
    seed: int

    @cached_property
    def start(self) -> np.ndarray:
        return self.draw(LENGTH)

    def draw(self, frames: int) -> np.ndarray:
        """uint8 [frames, 128, 128, 3]."""
        return world.render_clip(self.clip, frames).image


def make_task(seed: int, index: int) -> Task:
    """Number `index`: a gentle action or a slow pan. Each of the hero's attributes is named in one of three."""
    rng = Random(f"streaming measure/{seed}/{index}")
    clip = replace(world.sample_clip(20_000 + seed, index, wide=0.0), tempo=1.0)
    looks = {name for name in (*COLOURS, "shape", "hat") if rng.random() < 1 / 3}
    return Task(clip, captions.caption(clip, {"action", "scene", "pan", *looks}), rng.randrange(2**32))


class Studio:
    """The models in the host's hands, and the judge of what they make. steps: of a chunk."""

    def __init__(self, streaming, video, clip, vae, clip_vision, reader: Reader, steps: int | None = None):
        self.streaming, self.video, self.clip, self.vae, self.clip_vision = streaming, video, clip, vae, clip_vision
        self.reader, self.steps = reader, steps
        self._made: tuple[Setting | None, dict[int, Tensor]] = (None, {})

    @torch.no_grad()
    def make(self, setting: Setting, task: Task) -> Tensor:
        """The video, IMAGE [frames, 128, 128, 3]."""
        if setting.mode == DRAWN:
            return self.through(task.draw(setting.frames))
        plain = replace(setting, name="", blend="")
        if plain != self._made[0]:
            self._made = plain, {}
        videos = self._made[1]  # those of the last setting: what is refined is made once
        if task.seed not in videos:
            videos[task.seed] = self.go_on(plain, task)
        return self.refine(setting, task, videos[task.seed]) if setting.blend else videos[task.seed]

    def through(self, frames: np.ndarray) -> Tensor:
        """Drawn frames as the autoencoder gives them back, so that no border shows where its work begins."""
        return self.vae.decode(self.vae.encode(as_input(frames)))

    def prompts(self, task: Task) -> list:
        """(positive, negative)"""
        return [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt)) for prompt in (task.caption, "")]

    def go_on(self, setting: Setting, task: Task) -> Tensor:
        from storyreel.host.extend import extend
        from storyreel.host.extend.families import extender_of
        from storyreel.host.video import file

        begun = self.through(task.start)
        extender = extender_of(self.told(setting, task))
        start = extend.read_start(file.open_video(begun, 8.0), extender.overlap, 0)
        with tempfile.TemporaryDirectory() as folder:
            store = extend.Store(Path(folder), [str(number) for number in range(setting.chunks)])
            return torch.cat([begun, *extend.make_chunks(extender, start, store, setting.colour)])

    def told(self, setting: Setting, task: Task):
        import comfy.samplers
        from storyreel.host.dynamicrafter import sampling as sampling
        from storyreel.host.extend.extender import Told

        positive, negative = self.prompts(task)
        inputs = dict(vae=self.vae, clip_vision=self.clip_vision, positive=positive, negative=negative)
        inputs |= dict(seed=task.seed, cfg=GUIDANCE)
        if setting.mode == LAST_FRAME:
            sigmas = sampling.sigmas_of(self.video, LAST_FRAME_SPACING, self.steps or LAST_FRAME_STEPS)
            model = sampling.patch_rescale(self.video, RESCALE)
            return Told(model, sampler=comfy.samplers.sampler_object("euler"), sigmas=sigmas, **inputs)
        cam, apm = STRENGTHS[setting.mode]
        sampler = sampling.DDIM(ETA)
        return Told(self.streaming, sampler=sampler, sigmas=self.sigmas(), cam_strength=cam, apm_strength=apm, **inputs)

    def sigmas(self) -> Tensor:
        from storyreel.host.dynamicrafter import sampling as sampling

        return sampling.sigmas_of(self.streaming, SPACING, self.steps or STEPS)

    def refine(self, setting: Setting, task: Task, video: Tensor) -> Tensor:
        """SDEdit of a long video by the base, chunk by chunk (section 4.3). none: every chunk with noise of its own.
        shared: with its part of one noise. randomized: with that, and blended at every step."""
        import comfy.sample
        from storyreel.host.streaming.blending import patch_blending

        latent = self.vae.encode(video)
        noise = comfy.sample.prepare_noise(latent, task.seed)
        if setting.blend == RANDOMIZED:
            model = patch_blending(self.streaming, LENGTH, MEMORY, GUIDANCE, 0.0, task.seed)
            return self.vae.decode(self.denoise(model, task, latent, noise))
        starts = blending.chunk_starts(len(video), LENGTH, MEMORY)
        chunks = []
        for number, start in enumerate(starts):
            chunk = slice(start, start + LENGTH)
            own = noise[chunk]
            if setting.blend == NONE:
                own = comfy.sample.prepare_noise(latent[chunk], task.seed + number)
            chunks.append(self.denoise(self.streaming, task, latent[chunk], own))
        return self.vae.decode(blending.blend(chunks, starts, [0] * len(starts), dim=0))

    def denoise(self, model, task: Task, latent: Tensor, noise: Tensor) -> Tensor:
        import comfy.samplers

        sigmas = self.sigmas()
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*self.prompts(task))
        guider.set_cfg(GUIDANCE)
        sampler = comfy.samplers.sampler_object("euler")
        last = sigmas[-1 - max(1, round(REFINED * (len(sigmas) - 1))) :]
        return guider.sample(noise, latent, sampler, last, disable_pbar=True, seed=task.seed)


def open_studio(
    streaming: Path, video: Path | None, weights: Path | None, reader: Path, steps: int | None = None
) -> Studio:
    """The models that ship, or those of another folder. streaming, video: files of the models that make videos; no
    setting but LAST_FRAME needs the second."""
    import comfy.utils
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import loader as dynamicrafter_loader
    from storyreel.host.streaming import loader as streaming_loader

    comfy.utils.set_progress_bar_enabled(False)
    for folder in (weights, video and video.parent, streaming.parent):
        if folder:
            folder_paths.add_model_folder_path(storyworld.FOLDER, str(folder), is_default=True)
    storyworld.register()
    judge = shipping.filled(Reader(), reader)
    baseline = dynamicrafter_loader.load(video.name).model if video else None
    if baseline:  # it would go from the last frame to the anchor, as it was trained to do, too; it is to know no anchor
        baseline.model.kind = replace(baseline.model.kind, interpolates=False)
    parts = storyworld.load_clip(), storyworld.load_vae(), storyworld.load_clip_vision()
    return Studio(streaming_loader.load(streaming.name).model, baseline, *parts, judge, steps)


@dataclass(frozen=True)
class Judged:
    """Of one video: figures, and for each of its chunks, the first included, what its last frame shows."""

    figures: dict[str, float]
    by_chunk: dict[str, list[float]]


def judge(studio: Studio, setting: Setting, task: Task, video: Tensor) -> Judged:
    """colours, shapes, scene: share that is right, which is the anchor's. drift: mean over red, green and blue, in
    percent. For the rest see `streaming_watch`."""
    ends = [border - 1 for border in setting.borders] + [setting.frames - 1]
    said = studio.reader.answer((video[ends] * 255).round().byte().numpy())
    look = words.attributes(task.clip)
    there = np.array([number != NOBODY for number in said["number"]])

    def right(*names: str) -> np.ndarray:
        return np.mean([[word == look[name] for word in said[name]] for name in names], 0)

    by_chunk = {
        "colours": there * right(*COLOURS),
        "shapes": there * right("shape", "hat"),
        "scene": right("scene"),
    }
    seen: Seen = watch_video(video, setting.borders)
    by_chunk["drift"] = np.array([np.nanmean(seen.drift[end - MEMORY + 1 : end + 1]) for end in ends])
    by_chunk = {name: shares.astype(float).tolist() for name, shares in by_chunk.items()}
    new = {name: float(np.mean(shares[1:])) for name, shares in by_chunk.items()}
    return Judged(new | {"last_drift": by_chunk["drift"][-1]} | seen.figures, by_chunk)


def measure(studio: Studio, setting: Setting, videos: int, seed: int, each=None) -> dict:
    """One row of the table: each figure with its 95 % interval over videos. Figures of single chunks are lists of such
    triples. each(task, video) is called with every video."""
    judged = []
    for index in range(videos):
        task = make_task(seed, index)
        video = studio.make(setting, task)
        judged.append(judge(studio, setting, task, video))
        if each:
            each(task, video)
    row = {"setting": setting.name, "stories": videos, "seed": seed, "frames": setting.frames}
    for name in judged[0].figures:
        figures = interval([one.figures[name] for one in judged])
        row |= zip((name, f"{name}_low", f"{name}_high"), map(rounded, figures), strict=True)
    for name in judged[0].by_chunk:
        chunks = zip(*(one.by_chunk[name] for one in judged), strict=True)
        row[f"{name}_by_chunk"] = [[rounded(figure) for figure in interval(list(values))] for values in chunks]
    return row
