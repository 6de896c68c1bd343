"""Bank From Images, measured: stories whose hero is known from drawings that no model drew.

Stories and captions are those of `pictures`: some of the hero's looks are not named. The drawings show the same hero in
other scenes and actions. Without them, its unnamed colors are free; a bank should make them those of the drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from storyreel.core.attention.bank import Bank
from storyreel.core.storyworld import captions, world
from storyreel.core.storyworld.attributes import Picture, attributes

from ..report.rows import Rows, markdown, share, table
from ..train.classifier import NOBODY
from .pictures import SCHEDULER, Pictures, Task, by_factor, describe_task, make_task, shares
from .pipeline import HERO_COLORS, Setting, Show, as_input
from .story_settings import StorySetting, csa

STORIES = 12
AT_ONCE = 8  # images that are drawn in one batch; each reads the bank and no other
COLUMNS = ("known", "colors", "named", "scene", "action")


@dataclass(frozen=True, kw_only=True)
class DrawingSetting(StorySetting):
    """drawings: how many the bank is made of; 0 = no bank. masked: only the hero is recorded."""

    count: int = STORIES
    drawings: int = 0
    masked: bool = False


def drawn_from(name: str, drawings: int = 4, **others) -> DrawingSetting:
    """Reads a bank, with the inputs of `csa`."""
    attention = csa(**others).attention
    return DrawingSetting(name=name, attention=attention, drawings=drawings, masked=True)


FOUR = drawn_from("drawings-4-mask")
SOURCES = [DrawingSetting(name="plain"), drawn_from("drawing-mask", 1), FOUR]
LENGTHS = [replace(FOUR, frames=frames, count=count) for frames, count in ((6, STORIES), (24, STORIES), (96, 8))]
FACTORS = {
    "rate": [drawn_from("rate-0.25", rate=0.25), FOUR, drawn_from("rate-1", rate=1.0)],
    "strength": [drawn_from("strength-0.5", strength=0.5), FOUR, drawn_from("strength-2", strength=2.0)],
}


class Drawings(Pictures):
    settings = list(dict.fromkeys([*SOURCES, *LENGTHS, *chain(*FACTORS.values())]))
    file_name = "measured_drawings.jsonl"

    def evaluate(self, setting: DrawingSetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        """known: share of the unnamed colors that are the drawings'."""
        task = make_task(seed, index, setting.frames)
        drawings = world.sample_story(seed, index, setting.frames + setting.drawings)[setting.frames :]
        bank = self.bank(setting, task, drawings, index) if drawings else None
        images = np.concatenate([self.draw(setting, part, bank) for part in parts(task)])
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

    def bank(
        self, setting: DrawingSetting, task: Task, drawings: Sequence[Picture], seed: int, name: str = captions.TAG
    ) -> Bank:
        """Of drawings with captions that name what the story names. name: of the hero."""
        import comfy.samplers
        from storyreel.host.common.conditioning import encode_story
        from storyreel.nodes.attention import StoryReelConsistentAttention
        from storyreel.nodes.bank_images import StoryReelBankFromImages

        rendered = [world.render_picture(drawing) for drawing in drawings]
        masks = np.stack([one.masks.max(0) for one in rendered])
        preset = {name: value for name, value in (setting.attention or {}).items() if name != "strength"}
        positive, negative = encode_story(self.clip, [captions.caption(one, task.named) for one in drawings], "")
        sampling = self.model.get_model_object("model_sampling")
        return StoryReelBankFromImages.execute(
            model=StoryReelConsistentAttention.execute(self.model, preset, strength=1.0, seed=task.seed).result[0],
            vae=self.vae,
            images=as_input(np.stack([one.image for one in rendered])),
            positive=positive,
            negative=negative,
            sigmas=comfy.samplers.calculate_sigmas(sampling, SCHEDULER, self.steps).cpu(),
            name=name,
            seed=seed,
            precision="fp32",
            device="cpu",
            max_gb=8.0,
            step_stride=1,
            mask=torch.from_numpy(masks).float() / 255 if setting.masked else None,
        ).result[0]

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        found = rows.of(weights)

        def label(setting: DrawingSetting) -> list[str]:
            return [f"{setting.frames}: {setting.name}", str(setting.count)]

        factors = ([name, share(row, "known"), share(row, "scene")] for name, row in by_factor(FACTORS, found) if row)
        return {
            "drawings": table(found, [*SOURCES, *LENGTHS], COLUMNS, ("frames, setting", "n"), label),
            "drawings_factors": markdown(["factor, setting", "known", "scene"], factors),
        }

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        return []


def parts(task: Task) -> list[Task]:
    """The task in batches, each with noise of its own."""
    starts = range(0, len(task.pictures), AT_ONCE)
    picked = [range(len(task.pictures))[start : start + AT_ONCE] for start in starts]
    return [
        replace(
            task,
            pictures=tuple(task.pictures[number] for number in numbers),
            story=task.story.pick(numbers),
            seed=task.seed + numbers[0],
        )
        for numbers in picked
    ]
