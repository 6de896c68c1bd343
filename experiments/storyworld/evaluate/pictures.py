"""The claim of Consistent Self-Attention, measured: stories in which a caption leaves some of the hero's looks open.

Every story names the action and the scene of each frame and some of the hero's attributes, drawn by chance; what it
does not name is free, and consistency is that the frames of a story agree on it. A classifier reads each picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import torch
from storyreel.core.attention.bank import Bank
from storyreel.core.story.noise import noise_indices
from storyreel.core.story.script import read_script
from storyreel.core.story.story import Story
from storyreel.core.story.styles import NO_STYLE, PLACE, Style
from storyreel.core.storyworld import captions, world
from storyreel.core.storyworld.attributes import Picture, attributes
from torch import Tensor

from .. import DATA, SHIPPED
from ..report.plots import Panel, plot, sheet
from ..report.rows import Key, Rows, markdown, share
from ..train.classifier import NOBODY
from .frames import Backgrounds
from .pipeline import HERO_COLORS, SHAPES, Pipeline, Setting, Show, rounded, sample_named
from .story_settings import (
    BY_LENGTH,
    CSA,
    FACTORS,
    FRAMES,
    LENGTHS,
    LONGER,
    MAIN,
    ON_TRANSFORMER,
    ON_UNET,
    OTHERS,
    PLAIN,
    SETTINGS,
    TRANSFORMER_FACTORS,
    StorySetting,
)

GUIDANCE, SAMPLER, SCHEDULER = 3.0, "euler", "normal"
STORIES_OF = {"unet": "stories.jpg", "transformer": "stories_transformer.jpg"}
MARGIN = 8  # pixels around a hero's box
COLUMNS = ("colors", "shapes", "named", "scene", "action")
COPIED = ("pose", "place")  # of another image


@dataclass(frozen=True)
class Task:
    """A story to be drawn: the truth that it was made from, what its captions name, and the script as the pack reads
    it."""

    pictures: tuple[Picture, ...]
    named: frozenset[str]
    story: Story
    seed: int


def make_task(seed: int, index: int, frames: int, placed: bool = False) -> Task:
    """Story number `index`. Each of the hero's attributes is named in one story out of three."""
    rng = Random(f"measure/{seed}/{index}")
    pictures = world.sample_story(seed, index, frames)
    named = frozenset({"action", "scene", *sample_named(rng, *HERO_COLORS, *SHAPES), *(["place"] if placed else [])})
    characters, scenes = captions.script(pictures, named)
    story, _ = read_script(characters, scenes, NO_STYLE, "", {NO_STYLE: Style(NO_STYLE, PLACE)})
    return Task(pictures, named, story, rng.randrange(2**32))


class Pictures(Pipeline):
    """The image model, plain and with shared tokens. network: the shipped UNet or transformer, or another UNet,
    `unet_1` say."""

    settings = SETTINGS["unet"]
    file_name = "measured.jsonl"
    steps = 16

    def __init__(
        self, weights: Path | None = None, steps: int | None = None, network: str = "unet", data: Path | None = None
    ):
        """data: for the drawings whose backgrounds pictures are compared with."""
        from storyreel.host import storyworld

        super().__init__(weights, steps)
        self.name, self.parts = network, (network,)
        if network != "unet":
            self.settings = SETTINGS.get(network, OTHERS)
        self.model, self.data = storyworld.load_model(part=network), data or DATA
        self._stories: list[tuple[Task, dict[str, list[str]]]] = []

    @cached_property
    def backgrounds(self) -> Backgrounds:
        return Backgrounds(self.data, self.reconstruct)

    def draw(self, setting: StorySetting, task: Task, bank: Bank | None = None) -> np.ndarray:
        """uint8 [frames, 128, 128, 3]: the host's sampler, VAE and nodes' own functions, as a graph would run them.

        bank: is read, with the inputs of `setting.attention`.
        """
        import comfy.sample
        from storyreel.host.common.conditioning import encode_story
        from storyreel.host.story.latents import empty_story_latent
        from storyreel.nodes.attention import StoryReelConsistentAttention

        model = self.model_of(setting)
        if setting.attention is not None:
            inputs = dict(setting.attention)
            strength, positions = inputs.pop("strength", 1.0), inputs.pop("positions", "same")
            mask = boxes(task) if setting.boxed else None
            model = StoryReelConsistentAttention.execute(
                model,
                inputs,
                strength=strength,
                seed=task.seed,
                story=task.story,
                mask=mask,
                positions=positions,
                bank=bank,
            ).result[0]
        prompts = [frame.prompt for frame in task.story.frames]
        positive, negative = encode_story(self.clip, prompts, "")
        latent = empty_story_latent(noise_indices(task.story, setting.noise), world.SIZE, world.SIZE)
        empty = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        noise = comfy.sample.prepare_noise(empty, task.seed, latent.get("batch_index"))
        sampling = self.steps, GUIDANCE, SAMPLER, SCHEDULER, positive, negative, empty
        return self.decode(comfy.sample.sample(model, noise, *sampling, disable_pbar=True))

    def model_of(self, setting: StorySetting):
        """The MODEL in front of Consistent Self-Attention."""
        return self.model

    def evaluate(self, setting: StorySetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        task = make_task(seed, index, setting.frames, setting.placed)
        pictures = self.draw(setting, task)
        answers = self.classifier.answer(pictures)
        scenes = [picture.scene for picture in task.pictures]
        stray = np.mean([self.backgrounds.stray(*pair) for pair in zip(pictures, scenes, strict=True)])
        self._stories.append((task, answers))
        if show:
            show(describe_task(task), pictures)
        return shares(task, answers) | {"stray": float(stray)}

    def measure(self, setting: StorySetting, count: int, seed: int, show: Show | None = None) -> dict:
        self._stories.clear()
        row = super().measure(setting, count, seed, show)
        nobody = [number == NOBODY for _, answers in self._stories for number in answers["number"]]
        return row | {"vanished": rounded(float(np.mean(nobody))), "diversity": rounded(diversity(self._stories))}

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        """Of the newest models of all networks."""
        newest = newest_weights(rows)
        found, transformer = (rows.of(newest.get(network, "")) for network in ("unet", "transformer"))
        by_length = [(f"{one.frames}: {one.name} (n {one.count})", one) for one in BY_LENGTH]
        beside = [(f"transformer: {one.name}", transformer.get(one.key)) for one in ON_TRANSFORMER]
        beside += [(f"UNet: {one.name}", found.get(one.key)) for one in ON_UNET]
        return {
            "main": _table("setting", [(one.name, found.get(one.key)) for one in MAIN]),
            "factors": _table("factor, setting", by_factor(FACTORS, found)),
            "lengths": _table("frames, setting", [(label, found.get(one.key)) for label, one in by_length]),
            "models": models_table(rows),
            "transformer": _table("network, setting", beside, COPIED),
            "transformer_factors": _table("factor, setting", by_factor(TRANSFORMER_FACTORS, transformer), COPIED),
        }

    def illustrate(self, rows: Rows, seed: int) -> list[str]:
        if self.name not in STORIES_OF:
            return []
        if self.name == "unet":
            plot(panels(rows.of(self.origin()["weights"])), SHIPPED / "measured.png", height=9)
        entries = []
        for index in range(6):
            task = make_task(seed, index, FRAMES)
            drawn = [np.hstack(self.draw(setting, task)) for setting in (PLAIN, CSA)]
            entries.append((describe_task(task), np.vstack(drawn)))
        sheet(entries, columns=2).save(SHIPPED / STORIES_OF[self.name], quality=88)
        return []


def boxes(task: Task) -> Tensor:
    """[F, 128, 128], 1 in a box around each frame's hero: what a user would draw by hand."""
    masks = torch.zeros(len(task.pictures), world.SIZE, world.SIZE)
    for mask, picture in zip(masks, task.pictures, strict=True):
        rows, columns = (np.flatnonzero(world.render_picture(picture).masks.any((0, axis))) for axis in (2, 1))
        top, left = max(0, rows[0] - MARGIN), max(0, columns[0] - MARGIN)
        mask[top : rows[-1] + MARGIN + 1, left : columns[-1] + MARGIN + 1] = 1
    return masks


def describe_task(task: Task) -> str:
    """What the story names: its hero, then its frames."""
    hero = task.story.characters[0].description
    return f"{hero}: " + "; ".join(captions.describe_scene(picture, task.named) for picture in task.pictures)


def shares(task: Task, answers: dict[str, list[str]]) -> dict[str, float]:
    """Shares over a story's pictures by the classifier's answers; NaN where a story leaves nothing of the kind open.
    Pictures without a hero agree with nothing and have nothing right."""
    frames = range(len(task.pictures))
    present = [answers["number"][frame] != NOBODY for frame in frames]
    truth = [attributes(picture) for picture in task.pictures]

    def mean(values: list[bool]) -> float:
        return float(np.mean(values)) if values else float("nan")

    def agreement(names: Sequence[str]) -> float:
        return mean(
            [
                present[a] and present[b] and answers[name][a] == answers[name][b]
                for name in names
                if name not in task.named
                for a, b in combinations(frames, 2)
            ]
        )

    def right(names: Sequence[str]) -> float:
        return mean(
            [present[frame] and answers[name][frame] == truth[frame][name] for name in names for frame in frames]
        )

    return {
        "colors": agreement(HERO_COLORS),
        "shapes": agreement(SHAPES),
        "named": right([name for name in (*HERO_COLORS, *SHAPES) if name in task.named]),
        "scene": mean([answers["scene"][frame] == truth[frame]["scene"] for frame in frames]),
        "action": right(["action"]),
        "pose": mean(
            [
                present[a] and present[b] and answers["action"][a] == answers["action"][b]
                for a, b in combinations(frames, 2)
                if truth[a]["action"] != truth[b]["action"]
            ]
        ),
        "place": agreement(["place"]),
    }


def diversity(stories: Sequence[tuple[Task, dict[str, list[str]]]]) -> float:
    """Share of pairs of stories whose first pictures differ in a color that neither names."""
    differ = [
        first[name][0] != second[name][0]
        for (task, first), (other, second) in combinations(stories, 2)
        for name in HERO_COLORS
        if name not in task.named | other.named
    ]
    return float(np.mean(differ)) if differ else float("nan")


def by_factor(factors: Mapping[str, Sequence[Setting]], rows: Mapping[Key, dict]) -> list[tuple[str, dict | None]]:
    """The row of each setting of each factor, with its label."""
    return [(f"{factor}: {one.name}", rows.get(one.key)) for factor, settings in factors.items() for one in settings]


def _table(first: str, rows: Sequence[tuple[str, dict | None]], more: Sequence[str] = ()) -> list[str]:
    columns = *COLUMNS, *more
    cells = (
        [label, *(share(row, column) for column in columns), f"{row['diversity']:.2f}", f"{row['stray']:.2f}"]
        for label, row in rows
        if row
    )
    return markdown([first, *columns, "diversity", "stray"], cells)


def newest_weights(rows: Rows) -> dict[str, str]:
    """{model: hash of its weights}"""
    return {row["model"]: row["weights"] for row in rows.rows}


def models_table(rows: Rows) -> list[str]:
    """The main rows of every UNet there is: other seeds, and the control without twins."""
    found = [(model, rows.of(weights)) for model, weights in sorted(newest_weights(rows).items())]
    lines = [
        (f"{model}: {one.name} (n {one.count})", of.get(one.key)) for model, of in found for one in (*MAIN, *OTHERS)
    ]
    return _table("UNet, setting", lines)


def panels(rows: dict) -> list[Panel]:
    """Agreement on unnamed colors and named attributes, by setting; agreement by a story's length."""

    def values(settings: Sequence[Setting], name: str) -> list[tuple[float, float, float]]:
        found = [rows[setting.key] for setting in settings]
        return [(row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in found]

    shown = [setting for setting in Pictures.settings if setting.frames == FRAMES and setting.key in rows]
    labels = {"colors": "unnamed colors agree", "named": "named looks right"}
    by_setting = {label: (range(len(shown)), values(shown, name)) for name, label in labels.items()}
    lengths = {}
    for setting in LENGTHS:
        some = [one for one in BY_LENGTH if one.name == setting.name and one.key in rows]
        lengths[setting.name] = [one.frames for one in some], values(some, "colors")
    ticks = [FRAMES, *LONGER]
    axes = dict(xscale="log", xticks=ticks, xticklabels=[str(tick) for tick in ticks], ylim=(0, 1))
    return [
        Panel(
            by_setting,
            [setting.name for setting in shown],
            dict(xlim=(0, 1), xlabel="share, 95 % interval (dotted: chance)"),
            1 / 6,
        ),
        Panel(lengths, axes=axes | dict(xlabel="pictures of a story", ylabel=labels["colors"])),
    ]
