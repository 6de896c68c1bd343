"""What the video model makes of clips that it never saw: the given picture kept, the caption obeyed, the scene still.

Every gentle action is asked of the SAME picture, so that nothing but the caption can tell them apart. The clips come
from the host's sampler through the nodes' own functions, and classifiers read what they show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from storyreel.core.storyworld import attributes, captions, world
from torch.nn.functional import max_pool2d

from .. import SHIPPED
from ..report.plots import moving_sheet
from ..report.rows import Rows, share, table
from ..train.classifier import CLIP_ANSWERS, truth
from ..train.clips import FPS
from .pipeline import FRAMES, HERO_COLORS, SHAPES, ClipTask, Pipeline, Setting, Show, as_input, psnr, sample_named

SPACING, RESCALE, ETA = "uniform_trailing", 0.7, 1.0  # eta as published
NEAR_HERO = 12  # pixels around it are not background: its shadow is there
STILL = 4.0  # of 255: mean difference of a background that does not move
ANIMATE, INTERPOLATE, LOOP = "animate", "interpolate", "loop"


@dataclass(frozen=True, kw_only=True)
class ClipSetting(Setting):
    """What the model gets, and the guidance. drawn: no model, the drawings themselves through the autoencoder. concat:
    the latents that are concatenated to the noise."""

    mode: str = ANIMATE
    actions: tuple[str, ...] = attributes.GENTLE_ACTIONS
    drawn: bool = False
    text: bool = True
    image: bool = True
    concat: bool = True
    text_scale: float = 2.0
    image_scale: float = 2.0


WIDE = attributes.WIDE_ACTIONS
DRAWN = ClipSetting(name="drawn", count=5, drawn=True)
PLAIN = ClipSetting(name="animate", count=4)
MAIN = (
    DRAWN,
    PLAIN,
    ClipSetting(name="animate-no-text", count=2, text=False),
    ClipSetting(name="animate-no-image", count=2, image=False),
    ClipSetting(name="animate-no-concat", count=2, concat=False),
    ClipSetting(name="drawn-wide", count=4, drawn=True, actions=WIDE),
    ClipSetting(name="animate-wide", count=3, actions=WIDE),
)
GUIDANCE = tuple(
    ClipSetting(name=f"animate-scales-{text}-{image}", count=2, text_scale=float(text), image_scale=float(image))
    for text in (1, 4)
    for image in (1, 4)
)
ENDS = (
    ClipSetting(name="interpolate", count=8, mode=INTERPOLATE),
    ClipSetting(name="interpolate-no-text", count=8, mode=INTERPOLATE, text=False),
    ClipSetting(name="loop", count=8, mode=LOOP),
)
COLUMNS = ("action", "path", "first", "every", "colors", "still", "scene")
OF_GUIDANCE = ("action", "first", "every", "colors", "still")
OF_ENDS = ("action", "first", "last", "middle", "blend", "middle_moving", "blend_moving", "seam", "away")
TARGETS = {"action": 0.9, "first": 29.0, "colors": 0.9, "still": 0.9}  # of gentle clips


def make_tasks(setting: ClipSetting, seed: int, index: int) -> list[ClipTask]:
    """One task for each action, all from one picture. In the other modes than animate a single action, by chance."""
    rng = Random(f"video measure/{seed}/{index}")
    start = replace(world.sample_clip(10_000 + seed, index, wide=0.0), tempo=1.0, pan="")
    named = {"action", "scene", *sample_named(rng, *HERO_COLORS, *SHAPES)}
    actions = setting.actions if setting.mode == ANIMATE else [rng.choice(setting.actions)]
    tasks = []
    for action in actions:
        clip = replace(start, figures=(replace(start.figures[0], action=action),))
        tasks.append(ClipTask(clip, captions.caption(clip, named), rng.randrange(2**32)))
    return tasks


def background_of(task: ClipTask) -> np.ndarray:
    """bool [128, 128], where no hero comes near."""
    heroes = torch.from_numpy(task.drawing.masks.any((0, 1)))[None].float()
    return max_pool2d(heroes, 2 * NEAR_HERO + 1, 1, NEAR_HERO)[0].numpy() == 0


class Video(Pipeline):
    """The video model, a small DynamiCrafter."""

    name, parts = "video", ("video",)
    settings = (*MAIN, *ENDS, *GUIDANCE)
    file_name = "measured_video.jsonl"
    steps = 16

    def __init__(self, weights: Path | None = None, steps: int | None = None):
        from storyreel.host.dynamicrafter import loader

        super().__init__(weights, steps)
        self.model = loader.load(self.file("video").name).model

    def make(self, setting: ClipSetting, task: ClipTask) -> np.ndarray:
        """uint8 [T, 128, 128, 3]."""
        if setting.drawn:
            return self.reconstruct(task.frames)
        *conds, latent = self.condition(setting, task)
        return self.decode(self.sample(setting, conds, latent["samples"], task.seed))

    def condition(self, setting: ClipSetting, task: ClipTask) -> tuple:
        """(positive, image only, negative, LATENT)"""
        from storyreel.host.dynamicrafter import conditioning
        from storyreel.host.dynamicrafter import model as keys

        start, end = as_input(task.frames[:1]), as_input(task.frames[-1:])
        encoders = *self.prompts(task.caption if setting.text else ""), self.clip_vision, self.vae
        end = end if setting.mode == INTERPOLATE else None
        size = world.SIZE, world.SIZE, FRAMES
        found = conditioning.condition(*encoders, start, end, setting.mode, *size, None)
        for conds in found[:3]:
            for _, options in conds:
                if not setting.concat:
                    options[keys.CONCAT_LATENTS] = torch.zeros_like(options[keys.CONCAT_LATENTS])
                if not setting.image:
                    options[keys.VISION_TOKENS] = found[2][0][1][keys.VISION_TOKENS]
        return found

    def sample(self, setting: ClipSetting, conds: list, empty: torch.Tensor, seed: int) -> torch.Tensor:
        import comfy.sample
        from storyreel.host.dynamicrafter import sampling

        guider = sampling.TextImageGuider(self.model)
        guider.set_conds(*conds)
        guider.set_scales(setting.text_scale, setting.image_scale, RESCALE)
        noise = comfy.sample.prepare_noise(empty, seed)
        sigmas = sampling.sigmas_of(self.model, SPACING, self.steps)
        return guider.sample(noise, empty, sampling.DDIM(ETA), sigmas, disable_pbar=True, seed=seed)

    def evaluate(self, setting: ClipSetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        """Means over the clips that are made from one picture."""
        tasks = make_tasks(setting, seed, index)
        clips = [self.make(setting, task) for task in tasks]
        answers = self.video_classifier.answer(self.encoder, np.stack(clips))
        last = self.classifier.answer(np.stack([clip[-1] for clip in clips]))
        found: dict[str, list[float]] = {}
        for number, (task, clip) in enumerate(zip(tasks, clips, strict=True)):
            right, look = truth(task.clip), attributes.attributes(task.clip)
            results = {name: answers[name][number] == right[name] for name in CLIP_ANSWERS if name != "pan"}
            kept = all(last[name][number] == look[name] for name in HERO_COLORS)
            results |= {"first": psnr(clip[0], task.frames[0]), "every": psnr(clip, task.frames), "colors": kept}
            moved = np.abs(clip.astype(np.int16) - clip[:1]).mean(-1)[:, background_of(task)].mean(1)
            results |= {"still": moved.max() <= STILL, "scene": last["scene"][number] == look["scene"]}
            for name, result in (results | of_mode(setting.mode, task, clip)).items():
                found.setdefault(name, []).append(float(result))
            if show:
                show(task.caption, clip)
        return {name: float(np.mean(values)) for name, values in found.items()}

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        found = rows.of(weights)
        return {
            "video": table(found, MAIN, COLUMNS),
            "ends": table(found, ENDS, OF_ENDS),
            "guidance": table(found, GUIDANCE, OF_GUIDANCE),
        }

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        tasks = make_tasks(PLAIN, seed, 0)
        entries = [(task.clip.figures[0].action, self.make(PLAIN, task)) for task in tasks]
        moving_sheet(entries, 5, FPS, SHIPPED / "clips.webp")
        return missed(rows.of(self.origin()["weights"]))


def of_mode(mode: str, task: ClipTask, clip: np.ndarray) -> dict[str, float]:
    """The results that only clips between two ends, or that return to their start, have."""
    if mode == LOOP:
        return {"seam": psnr(clip[-1], clip[0]), "away": psnr(clip[FRAMES // 2], clip[0])}
    if mode != INTERPOLATE:
        return {}
    middle, (first, last) = FRAMES // 2, task.frames[[0, -1]]
    truth_ = task.frames[middle]
    blend = first + np.linspace(0, 1, FRAMES)[middle] * (last.astype(np.float64) - first)
    results = {"middle": psnr(clip[middle], truth_), "blend": psnr(blend, truth_), "last": psnr(clip[-1], last)}
    moving = np.stack([np.abs(truth_.astype(np.int16) - end).max(-1) > 16 for end in (first, last)]).any(0)
    if moving.any():
        results["middle_moving"] = psnr(clip[middle], truth_, moving)
        results["blend_moving"] = psnr(blend, truth_, moving)
    return results


def missed(rows: Mapping[tuple, dict]) -> list[str]:
    """A sentence for every target that the model does not reach."""
    row = rows[PLAIN.key]
    return [
        f"{name} is {share(row, name)} in gentle clips; at least {least} is expected"
        for name, least in TARGETS.items()
        if row[name] < least
    ]
