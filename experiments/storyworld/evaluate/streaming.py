"""What long videos keep of their start: with CAM and APM and without, blended or not, and from the last frame alone.

Every video extends a drawn clip of 16 frames, whose caption leaves most of the hero's looks open: to keep them is up to
the model. The chunks are made by the functions of StoryReelExtendVideo and StoryReelRandomizedBlending, and a
classifier reads their last frames.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import torch
from storyreel.core.diffusion import blending
from storyreel.core.storyworld import attributes, captions, world
from torch import Tensor

from .. import SHIPPED
from ..report.plots import Panel, plot
from ..report.rows import Rows, markdown, table
from ..train.classifier import NOBODY
from ..train.clips import LENGTH, MEMORY
from .frames import per_frame_results
from .pipeline import HERO_COLORS, SHAPES, ClipTask, Pipeline, Setting, Show, as_bytes, as_input, sample_named

SPACING, ETA, GUIDANCE = "leading", 1.0, 3.0
LAST_FRAME_STEPS, LAST_FRAME_SPACING, RESCALE = 16, "uniform_trailing", 0.7  # of DynamiCrafter
REFINED = 0.4  # share of the steps that a refinement goes through
DRAWN, LAST_FRAME = "drawn", "dynamicrafter"
STRENGTHS = {"both": (1.0, 1.0), "no-cam": (0.0, 1.0), "no-apm": (1.0, 0.0), "neither": (0.0, 0.0)}  # of CAM and APM
NONE, SHARED, RANDOMIZED = "none", "shared", "randomized"


@dataclass(frozen=True, kw_only=True)
class LongSetting(Setting):
    """How a video is made. mode: DRAWN, which is no model's, LAST_FRAME, or of STRENGTHS. chunks: that are added.
    color: color_match of Extend Video. blend: how the video is refined afterwards, "" if not."""

    mode: str
    count: int = 6
    chunks: int = 4
    color: float = 0.0
    blend: str = ""
    frames: int = 0  # of the whole video

    def __post_init__(self):
        object.__setattr__(self, "frames", LENGTH + self.chunks * self.new)

    @property
    def new(self) -> int:
        """Frames that a chunk adds."""
        return LENGTH - (1 if self.mode == LAST_FRAME else MEMORY)

    @property
    def borders(self) -> list[int]:
        """First frames of the chunks that were added."""
        return list(range(LENGTH, self.frames, self.new))


def chunks(setting: LongSetting, chunks: int, count: int) -> LongSetting:
    return replace(setting, name=f"{setting.name}-chunks-{chunks}", chunks=chunks, count=count)


BOTH, NO_CAM, NO_APM, NEITHER = (LongSetting(name=mode, mode=mode) for mode in STRENGTHS)
BASELINE = LongSetting(name=LAST_FRAME, mode=LAST_FRAME)
PARTS = (BOTH, LongSetting(name=DRAWN, mode=DRAWN), NO_CAM, NO_APM, NEITHER, BASELINE)
BLENDS = tuple(replace(BOTH, name=f"both-blend-{blend}", blend=blend) for blend in (NONE, SHARED, RANDOMIZED))
LONGEST = chunks(BOTH, 20, 2)
LONGER = (LONGEST, chunks(NO_APM, 8, 3), chunks(BASELINE, 8, 3))
CHUNKED = (*(setting for setting in PARTS if setting.mode != DRAWN), *LONGER)
COLORED = (LONGEST, replace(LONGEST, name=f"{LONGEST.name}-color-1", color=1.0))
SHOWN = (0, 1, 2, 4, 8, 14, LONGEST.chunks)  # chunks of the table by chunk
COLUMNS = ("hero_jump", "hero_step", "jump", "cuts", "colors", "shapes", "scene", "drift")
OF_BLENDS = ("flow_deviation", "flow_jump", "jump", "colors", "drift")
OF_COLORED = ("colors", "scene", "drift", "last_drift", "cuts")
BY_CHUNK = {"colors": "hero's colors right", "scene": "scene right", "drift": "drift of colors, % of full range"}


def make_task(seed: int, index: int) -> ClipTask:
    """Number `index`: a gentle action or a slow pan. Each of the hero's attributes is named in one of three."""
    rng = Random(f"streaming measure/{seed}/{index}")
    clip = replace(world.sample_clip(20_000 + seed, index, wide=0.0), tempo=1.0)
    named = {"action", "scene", "pan", *sample_named(rng, *HERO_COLORS, *SHAPES)}
    return ClipTask(clip, captions.caption(clip, named), rng.randrange(2**32))


class Streaming(Pipeline):
    """The streaming model, a small StreamingT2V, and as a baseline the video model."""

    name, parts = "streaming", ("streaming", "video")
    # What is refined comes after what it is made of.
    settings = tuple(dict.fromkeys((BOTH, *BLENDS, *PARTS, *LONGER, *COLORED)))
    file_name = "measured_streaming.jsonl"
    steps = 14

    def __init__(self, weights: Path | None = None, steps: int | None = None):
        from storyreel.host.streaming import loader

        super().__init__(weights, steps)
        self.model = loader.load(self.file("streaming").name).model
        self.baseline_steps = steps or LAST_FRAME_STEPS
        self._made: tuple[LongSetting | None, dict[int, Tensor]] = (None, {})

    @cached_property
    def baseline(self):
        """The video model, which here sees no anchor: it was trained to go from the last frame to an anchor, too."""
        from storyreel.host.dynamicrafter import loader

        model = loader.load(self.file("video").name).model
        model.model.kind = replace(model.model.kind, interpolates=False)
        return model

    @torch.no_grad()
    def make(self, setting: LongSetting, task: ClipTask) -> Tensor:
        """The video, IMAGE [frames, 128, 128, 3]."""
        if setting.mode == DRAWN:
            return self.autoencoded(task.draw(setting.frames))
        plain = replace(setting, name="", blend="")
        if plain != self._made[0]:
            self._made = plain, {}
        videos = self._made[1]  # those of the last setting: what is refined is made once
        if task.seed not in videos:
            videos[task.seed] = self.extend(plain, task)
        return self.refine(setting, task, videos[task.seed]) if setting.blend else videos[task.seed]

    def autoencoded(self, frames: np.ndarray) -> Tensor:
        """Drawn frames as the autoencoder returns them, so that no border shows where its work begins."""
        return self.vae.decode(self.vae.encode(as_input(frames)))

    def extend(self, setting: LongSetting, task: ClipTask) -> Tensor:
        from storyreel.host.extend import extend
        from storyreel.host.extend.families import extender_of
        from storyreel.host.video import file

        begun = self.autoencoded(task.draw(LENGTH))
        extender = extender_of(self.inputs(setting, task))
        start = extend.read_start(file.open_video(begun, 8.0), extender.overlap, 0)
        with tempfile.TemporaryDirectory() as folder:
            store = extend.Store(Path(folder), [str(number) for number in range(setting.chunks)])
            return torch.cat([begun, *extend.generate_chunks(extender, start, store, setting.color)])

    def inputs(self, setting: LongSetting, task: ClipTask):
        """Of Extend Video."""
        import comfy.samplers
        from storyreel.host.dynamicrafter import sampling
        from storyreel.host.extend.extender import ChunkInputs

        positive, negative = self.prompts(task.caption)
        inputs = dict(vae=self.vae, clip_vision=self.clip_vision, positive=positive, negative=negative)
        inputs |= dict(seed=task.seed, cfg=GUIDANCE)
        if setting.mode == LAST_FRAME:
            sigmas = sampling.sigmas_of(self.baseline, LAST_FRAME_SPACING, self.baseline_steps)
            model = sampling.patch_rescale(self.baseline, RESCALE)
            return ChunkInputs(model, sampler=comfy.samplers.sampler_object("euler"), sigmas=sigmas, **inputs)
        cam, apm = STRENGTHS[setting.mode]
        inputs |= dict(sampler=sampling.DDIM(ETA), sigmas=self.sigmas(), cam_strength=cam, apm_strength=apm)
        return ChunkInputs(self.model, **inputs)

    def sigmas(self) -> Tensor:
        from storyreel.host.dynamicrafter import sampling

        return sampling.sigmas_of(self.model, SPACING, self.steps)

    def refine(self, setting: LongSetting, task: ClipTask, video: Tensor) -> Tensor:
        """SDEdit of a long video by the base, chunk by chunk (section 4.3). none: every chunk with noise of its own.
        shared: with its part of one noise. randomized: with that, and blended at every step."""
        import comfy.sample
        from storyreel.host.streaming.blending import patch_blending

        latent = self.vae.encode(video)
        noise = comfy.sample.prepare_noise(latent, task.seed)
        if setting.blend == RANDOMIZED:
            model = patch_blending(self.model, LENGTH, MEMORY, GUIDANCE, 0.0, task.seed)
            return self.vae.decode(self.denoise(model, task, latent, noise))
        starts = blending.chunk_starts(len(video), LENGTH, MEMORY)
        refined = []
        for number, start in enumerate(starts):
            chunk = slice(start, start + LENGTH)
            own = noise[chunk]
            if setting.blend == NONE:
                own = comfy.sample.prepare_noise(latent[chunk], task.seed + number)
            refined.append(self.denoise(self.model, task, latent[chunk], own))
        return self.vae.decode(blending.blend(refined, starts, [0] * len(starts), dim=0))

    def denoise(self, model, task: ClipTask, latent: Tensor, noise: Tensor) -> Tensor:
        import comfy.samplers

        sigmas = self.sigmas()
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*self.prompts(task.caption))
        guider.set_cfg(GUIDANCE)
        sampler = comfy.samplers.sampler_object("euler")
        last = sigmas[-1 - max(1, round(REFINED * (len(sigmas) - 1))) :]
        return guider.sample(noise, latent, sampler, last, disable_pbar=True, seed=task.seed)

    def evaluate(self, setting: LongSetting, seed: int, index: int, show: Show | None) -> dict[str, float | list]:
        """colors, shapes, scene: share that is right, which is the anchor's; drift: mean over red, green and blue, in
        percent; all at the ends of the added chunks, and by chunk, the first included. The rest: see `long_video`."""
        task = make_task(seed, index)
        video = self.make(setting, task)
        if show:
            show(task.caption, as_bytes(video[::2]))
        ends = [border - 1 for border in setting.borders] + [setting.frames - 1]
        answers = self.classifier.answer(as_bytes(video[ends]))
        look = attributes.attributes(task.clip)
        present = np.array([number != NOBODY for number in answers["number"]])

        def right(*names: str) -> np.ndarray:
            return np.mean([[word == look[name] for word in answers[name]] for name in names], 0)

        results, drift = per_frame_results(video, setting.borders)
        by_chunk = {
            "colors": present * right(*HERO_COLORS),
            "shapes": present * right(*SHAPES),
            "scene": right("scene"),
            "drift": np.array([np.nanmean(drift[end - MEMORY + 1 : end + 1]) for end in ends]),
        }
        added = {name: float(np.mean(values[1:])) for name, values in by_chunk.items()}
        every = {f"{name}_by_chunk": values.astype(float).tolist() for name, values in by_chunk.items()}
        return added | {"last_drift": float(by_chunk["drift"][-1])} | results | every

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        found = rows.of(weights)
        return {
            "streaming": table(found, (*PARTS, *LONGER), COLUMNS),
            "chunks": chunks_table(found),
            "blending": table(found, (BOTH, *BLENDS), OF_BLENDS),
            "drift": table(found, COLORED, OF_COLORED),
        }

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        found = rows.of(self.origin()["weights"])
        panels = []
        for name, label in BY_CHUNK.items():
            settings = CHUNKED if name != "drift" else (*CHUNKED, COLORED[1])
            values = {one.name: found[one.key][f"{name}_by_chunk"] for one in settings if one.key in found}
            lines = {setting: (range(len(triples)), triples) for setting, triples in values.items()}
            panels.append(Panel(lines, axes=dict(xlabel="chunk (0 was drawn)", ylabel=label)))
        plot(panels, SHIPPED / "measured_streaming.png")
        return []


def chunks_table(rows: dict) -> list[str]:
    """What is right at the end of some chunks, of which number 0 was drawn."""
    lines = []
    for setting in CHUNKED:
        for name in ("colors", "scene") if setting.key in rows else ():
            values = rows[setting.key][f"{name}_by_chunk"]
            means = [f"{values[number][0]:.2f}" if number < len(values) else "-" for number in SHOWN]
            lines.append([setting.name, name, *means])
    return markdown(["setting", "right", *map(str, SHOWN)], lines)
