"""Bank From Images, measured: stories whose hero is known from drawings that no model drew.

Stories and captions are those of `pictures`: some of the hero's looks are not named. The drawings show the same hero in
other scenes and actions. Without them, its unnamed colors are free; a bank should make them those of the drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from storyreel.core.attention.bank import Bank
from storyreel.core.storyworld import captions, world
from storyreel.core.storyworld.attributes import Picture, attributes

from ..report.rows import Rows, table
from ..train.classifier import NOBODY
from .pictures import SCHEDULER, Pictures, Task, describe_task, make_task, shares
from .pipeline import HERO_COLORS, Setting, Show, as_input
from .story_settings import StorySetting

STORIES = 12
INPUTS = {"preset": "low-vram"}
COLUMNS = ("known", "colors", "named", "scene", "action")


@dataclass(frozen=True, kw_only=True)
class DrawingSetting(StorySetting):
    """drawings: how many the bank is made of; 0 = no bank. masked: only the hero is recorded."""

    count: int = STORIES
    drawings: int = 0
    masked: bool = False


DRAWINGS = [
    DrawingSetting(name="plain"),
    DrawingSetting(attention=INPUTS, name="drawing-mask", drawings=1, masked=True),
    DrawingSetting(attention=INPUTS, name="drawings-4-mask", drawings=4, masked=True),
]


class Drawings(Pictures):
    settings = DRAWINGS
    file_name = "measured_drawings.jsonl"

    def evaluate(self, setting: DrawingSetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        """known: share of the unnamed colors that are the drawings'."""
        task = make_task(seed, index, setting.frames)
        drawings = world.sample_story(seed, index, setting.frames + setting.drawings)[setting.frames :]
        bank = self.bank(task, drawings, setting.masked, index) if drawings else None
        images = self.draw(setting, task, bank)
        answers = self.classifier.answer(images)
        if show:
            shown = [world.render_picture(drawing).image for drawing in drawings[:1]]
            show(describe_task(task), np.stack([*shown, *images]))
        truth = attributes(task.pictures[0])
        known = [
            answers["number"][frame] != NOBODY and answers[name][frame] == truth[name]
            for name in HERO_COLORS
            if name not in task.named
            for frame in range(setting.frames)
        ]
        return {"known": float(np.mean(known)) if known else float("nan")} | shares(task, answers)

    def measure(self, setting: Setting, count: int, seed: int, show: Show | None = None) -> dict:
        return super(Pictures, self).measure(setting, count, seed, show)

    def bank(self, task: Task, drawings: Sequence[Picture], masked: bool, seed: int) -> Bank:
        """Of drawings with captions that name what the story names."""
        import comfy.samplers
        from storyreel.host.common.conditioning import encode_story
        from storyreel.nodes.attention import StoryReelConsistentAttention
        from storyreel.nodes.bank_images import StoryReelBankFromImages

        rendered = [world.render_picture(drawing) for drawing in drawings]
        mask = torch.from_numpy(np.stack([one.masks.max(0) for one in rendered])).float() / 255 if masked else None
        positive, negative = encode_story(self.clip, [captions.caption(one, task.named) for one in drawings], "")
        sampling = self.model.get_model_object("model_sampling")
        return StoryReelBankFromImages.execute(
            model=StoryReelConsistentAttention.execute(self.model, INPUTS, strength=1.0, seed=task.seed).result[0],
            vae=self.vae,
            images=as_input(np.stack([one.image for one in rendered])),
            positive=positive,
            negative=negative,
            sigmas=comfy.samplers.calculate_sigmas(sampling, SCHEDULER, self.steps).cpu(),
            name=captions.TAG,
            seed=seed,
            precision="fp32",
            device="cpu",
            max_gb=8.0,
            step_stride=1,
            mask=mask,
        ).result[0]

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        return {"drawings": table(rows.of(weights), DRAWINGS, COLUMNS)}

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        return []
