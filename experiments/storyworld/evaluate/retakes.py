"""Retakes, measured: stories of which frames are drawn again if they are too unlike the anchor frames.

Stories and captions are those of `pictures`, longer. Images are drawn as Draw Story draws them: two anchor frames in
one batch, which a bank records, then all others, which read it, each from its own seed. All settings choose among the
same tries of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from storyreel.core.attention.bank import Bank
from storyreel.core.metrics.similarity import mean_cosine
from storyreel.core.story.frame_table import occurrences, retake_seed, seed_of
from storyreel.core.story.retakes import next_try
from storyreel.core.storyworld import world
from torch import Tensor

from ..report.rows import Rows, table
from .pictures import GUIDANCE, SAMPLER, SCHEDULER, Pictures, Task, describe_task, make_task, shares
from .pipeline import Setting, Show, as_input
from .story_settings import StorySetting

STORIES, FRAMES, ANCHORS = 8, 8, 2
INPUTS = {"preset": "low-vram", "anchors": ANCHORS}
COLUMNS = ("colors", "gain", "shapes", "named", "scene", "action", "place", "score", "drawn")


@dataclass(frozen=True, kw_only=True)
class RetakeSetting(StorySetting):
    """retakes, threshold: as on Draw Story."""

    count: int = STORIES
    frames: int = FRAMES
    retakes: int = 0
    threshold: float = 1.0


RETAKES = [
    RetakeSetting(name="retakes-0"),
    RetakeSetting(name="retakes-1", retakes=1),
    RetakeSetting(name="retakes-3", retakes=3),
    RetakeSetting(name="retakes-3-0.4", retakes=3, threshold=0.4),
]


class Tries:
    """What can be drawn of a story: its anchor frames, and any try of the others, each drawn once.

    drawn: {(frame, try): uint8 [128, 128, 3]}, scores: {(frame, try): likeness to the anchor frames}, so far.
    """

    def __init__(self, pictures: Retakes, task: Task):
        self.pictures, self.task = pictures, task
        self.drawn: dict[tuple[int, int], np.ndarray] = {}
        self.scores: dict[tuple[int, int], float] = {}
        prompts = task.story.prompts
        self.seeds = [seed_of(task.seed, *entry) for entry in zip(prompts, occurrences(prompts), strict=True)]
        anchors = range(ANCHORS)
        images, self.bank = pictures.record(task, anchors, self.seeds[:ANCHORS])
        self.drawn |= {(number, 0): image for number, image in zip(anchors, images, strict=True)}
        self.anchors = pictures.embed(images)

    def image(self, number: int, place: int) -> np.ndarray:
        """Try number `place` of a frame. Those of all frames are drawn in one batch; each reads the bank alone."""
        if (number, place) not in self.drawn:
            numbers = range(ANCHORS, len(self.seeds))
            seeds = [retake_seed(seed, place) if place else seed for seed in self.seeds[ANCHORS:]]
            images = self.pictures.read(self.task, numbers, seeds, self.bank)
            self.drawn |= {(number, place): image for number, image in zip(numbers, images, strict=True)}
        return self.drawn[number, place]

    def score(self, number: int, place: int) -> float:
        if (number, place) not in self.scores:
            image = self.pictures.embed(self.image(number, place)[None])
            self.scores[number, place] = mean_cosine(image.expand_as(self.anchors), self.anchors)
        return self.scores[number, place]

    def choose(self, number: int, setting: RetakeSetting) -> tuple[int, list[float]]:
        """The try of a frame that is kept, and the scores of those that are drawn for it."""
        scores: list[float] = []
        while True:
            unknown = [None] * (1 + setting.retakes - len(scores))
            place, kept = next_try([*scores, *unknown], setting.threshold)
            if kept:
                return place, scores
            scores.append(self.score(number, place))


class Retakes(Pictures):
    settings = RETAKES
    file_name = "measured_retakes.jsonl"

    @cached_property
    def tries(self) -> dict[tuple[int, int, int], Tries]:
        """Of the stories so far, by seed, number and length."""
        return {}

    def evaluate(self, setting: RetakeSetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        """gain: of colors over the first tries. score: mean of the frames that are kept. drawn: images drawn for a
        frame. Both without the anchor frames."""
        task, key = make_task(seed, index, setting.frames), (seed, index, setting.frames)
        tries = self.tries.get(key) or self.tries.setdefault(key, Tries(self, task))
        numbers = range(ANCHORS, setting.frames)
        found = {number: tries.choose(number, setting) for number in numbers}
        first, images = (
            np.stack([tries.image(number, places.get(number, 0)) for number in range(setting.frames)])
            for places in ({}, {number: place for number, (place, _) in found.items()})
        )
        if show:
            show(describe_task(task), images)
        result, before = (shares(task, self.classifier.answer(shown)) for shown in (images, first))
        return result | {
            "gain": result["colors"] - before["colors"],
            "score": float(np.mean([scores[place] for place, scores in found.values()])),
            "drawn": float(np.mean([len(scores) for _, scores in found.values()])),
        }

    def measure(self, setting: Setting, count: int, seed: int, show: Show | None = None) -> dict:
        return super(Pictures, self).measure(setting, count, seed, show)

    def embed(self, images: np.ndarray) -> Tensor:
        """[N, d] of uint8 images."""
        from storyreel.host.metrics.features import embed_images

        return torch.cat([embed_images(self.clip_vision, as_input(image[None])) for image in images])

    def record(self, task: Task, numbers: range, seeds: list[int]) -> tuple[np.ndarray, Bank]:
        """Frames in one batch, and the bank of them."""
        from storyreel.nodes.record import StoryReelRecordCharacters

        model = self.attention(task, numbers)
        options = dict(precision="fp16", device="cpu", max_gb=8.0, step_stride=1)
        model, bank = StoryReelRecordCharacters.execute(model=model, **options).result
        return self.sample(model, task, numbers, seeds), bank

    def read(self, task: Task, numbers: range, seeds: list[int], bank: Bank) -> np.ndarray:
        """Frames that read the bank."""
        return self.sample(self.attention(task, numbers, bank), task, numbers, seeds)

    def attention(self, task: Task, numbers: range, bank: Bank | None = None):
        from storyreel.nodes.attention import StoryReelConsistentAttention

        story = task.story.pick(numbers)
        return StoryReelConsistentAttention.execute(
            self.model, dict(INPUTS), strength=1.0, seed=0, story=story, bank=bank
        ).result[0]

    def sample(self, model, task: Task, numbers: range, seeds: list[int]) -> np.ndarray:
        """uint8 [frames, 128, 128, 3], each from the noise of its seed."""
        import comfy.sample
        from storyreel.host.common.conditioning import encode_story
        from storyreel.host.story.latents import empty_story_latent
        from storyreel.host.story.noise import FrameNoise

        positive, negative = encode_story(self.clip, [task.story.prompts[number] for number in numbers], "")
        latent = empty_story_latent(list(range(len(numbers))), world.SIZE, world.SIZE)
        latent["samples"] = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        noise = FrameNoise(seeds).generate_noise(latent)
        sampling = self.steps, GUIDANCE, SAMPLER, SCHEDULER, positive, negative, latent["samples"]
        return self.decode(comfy.sample.sample(model, noise, *sampling, disable_pbar=True))

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        return {"retakes": table(rows.of(weights), RETAKES, COLUMNS)}

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        return []
