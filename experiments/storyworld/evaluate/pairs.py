"""Two heroes in a picture, measured: how often the colors of one appear on the other.

No caption names a color. Two banks made from drawings say what the heroes look like. The six colors of the world are
shared out, three to each, so that a color says whose it is. The model knows two heroes in a picture only as twins, whom
captions tell apart by their actions, from left to right: "twins one waving and one sitting in a meadow". So a hero's
own words are its action, and its place is one half of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from storyreel.core.attention.bank import Bank, merge
from storyreel.core.story.script import read_script
from storyreel.core.story.styles import NO_STYLE, PLACE, Style
from storyreel.core.storyworld import attributes as words
from storyreel.core.storyworld import captions, world
from storyreel.core.storyworld.attributes import Look, Picture

from ..report.rows import Rows, table
from .drawings import Drawings, DrawingSetting
from .pictures import Task
from .pipeline import Show
from .story_settings import CSA

if TYPE_CHECKING:
    from storyreel.host.attention.found_regions import FoundRegions

PAIRS, DRAWINGS = 12, 2  # drawings: of each hero
TWO = words.NUMBERS[2]
NAMES = "First", "Second"  # from left to right
ACTIONS = tuple(action for action in words.PICTURE_ACTIONS if not action.startswith("walking"))
PALETTE = np.array([*words.COLORS.values()], float)
NEAR = 60.0  # largest distance between a pixel and the color that it is taken for
COLUMNS = ("bleeding", "apart", "pairs", "placed")


@dataclass(frozen=True, kw_only=True)
class PairSetting(DrawingSetting):
    """regions: "" = none; "found" by Find Characters; "half" = the half of the picture that is a hero's place."""

    count: int = PAIRS
    regions: str = ""


PAIR_SETTINGS = [
    PairSetting(name="plain"),
    *(
        PairSetting(name=name, attention=CSA.attention, drawings=DRAWINGS, masked=True, regions=regions)
        for name, regions in {"bank": "", "bank-found": "found", "bank-half": "half"}.items()
    ),
]


@dataclass(frozen=True)
class Pair:
    """Two heroes, drawings of each alone, and the story that shows both in every picture."""

    looks: tuple[Look, Look]
    drawings: tuple[tuple[Picture, ...], ...]
    task: Task


def make_pair(seed: int, index: int, frames: int) -> Pair:
    """Pair number `index`."""
    rng = Random(f"pair/{seed}/{index}")
    colors = rng.sample(tuple(words.COLORS), 6)
    looks = (_look(rng, *colors[:3]), _look(rng, *colors[3:]))
    alone = world.sample_story(seed, index, 2 * DRAWINGS)
    drawings = tuple(tuple(replace(one, look=look) for one in alone[first::2]) for first, look in enumerate(looks))
    actions = rng.sample(ACTIONS, 2)
    characters = "\n".join(f"[{name}] one {action}" for name, action in zip(NAMES, actions, strict=True))
    scenes = (captions.SCENES[scene] for scene in rng.sample(words.SCENES, frames))
    lines = "\n".join(f"twins [{NAMES[0]}] and [{NAMES[1]}] {scene}" for scene in scenes)
    story, _ = read_script(characters, lines, NO_STYLE, "", {NO_STYLE: Style(NO_STYLE, PLACE)})
    return Pair(looks, drawings, Task((), frozenset({"action", "scene"}), story, rng.randrange(2**32)))


def _look(rng: Random, color: str, hat_color: str, scarf_color: str) -> Look:
    return Look(rng.choice(words.SHAPES), color, rng.choice(words.HATS), hat_color, scarf_color)


class Pairs(Drawings):
    settings = PAIR_SETTINGS
    file_name = "measured_pairs.jsonl"

    def evaluate(self, setting: PairSetting, seed: int, index: int, show: Show | None) -> dict[str, float]:
        """bleeding: of the pixels of a half in colors of heroes, the share in colors of the hero of the other half.
        apart: share of pictures where that is below .5 in both halves. Both are of pictures that show two heroes;
        pairs: the share of these. placed: share of the found regions that lies in the half of their hero."""
        pair = make_pair(seed, index, setting.frames)
        self.found.clear()
        images = self.draw(setting, pair.task, self.banks(setting, pair, index) if setting.drawings else None)
        if show:
            shown = [world.render_picture(one[0]).image for one in pair.drawings]
            show(pair.task.story.prompts[0], np.stack([*shown, *images]))
        numbers = self.classifier.answer(images)["number"]
        mixed = [bleeding(image, pair.looks) for image, number in zip(images, numbers, strict=True) if number == TWO]
        return {
            "bleeding": float(np.mean(mixed)) if mixed else float("nan"),
            "apart": float(np.mean([max(both) < 0.5 for both in mixed])) if mixed else float("nan"),
            "pairs": len(mixed) / len(images),
            "placed": placed(self.found[0], setting.frames) if self.found else float("nan"),
        }

    @cached_property
    def found(self) -> list[FoundRegions]:
        """What the last run found."""
        return []

    def model_of(self, setting: PairSetting):
        from storyreel.nodes.regions import StoryReelCharacterRegion, StoryReelFindCharacters

        model = self.model
        if setting.regions == "half":
            for name, half in zip(NAMES, halves(world.SIZE), strict=True):
                (model,) = StoryReelCharacterRegion.execute(model, name, half[None].float()).result
        if setting.regions == "found":
            (model,) = StoryReelFindCharacters.execute(model, self.clip, dropout=0.0, start_percent=0.0).result
            model.add_wrapper_with_key("outer_sample", "storyworld_found", self.keep_found)
        return model

    def keep_found(self, executor, *args, **kwargs):
        from storyreel.host.attention.sampling_state import KEY

        samples = executor(*args, **kwargs)
        self.found.append(executor.class_obj.model_options["transformer_options"][KEY].regions.found)
        return samples

    def banks(self, setting: PairSetting, pair: Pair, index: int) -> Bank:
        """Of both heroes as one, from drawings with their true masks."""
        if index not in self._banks:
            each = zip(pair.drawings, NAMES, strict=True)
            self._banks[index] = merge(self.bank(setting, pair.task, drawings, index, name) for drawings, name in each)
        return self._banks[index]

    @cached_property
    def _banks(self) -> dict[int, Bank]:
        return {}

    @classmethod
    def tables(cls, rows: Rows, weights: str) -> dict[str, list[str]]:
        return {"pairs": table(rows.of(weights), PAIR_SETTINGS, COLUMNS)}


def halves(size: int) -> list[torch.Tensor]:
    """The left and the right half of a square, bool [size, size]."""
    left = (torch.arange(size) < size // 2).expand(size, size)
    return [left, ~left]


def bleeding(image: np.ndarray, looks: tuple[Look, Look]) -> tuple[float, float]:
    """Of the pixels of each half that have a hero's color, the share that has a color of the other half's hero. .5 for
    a half without such pixels."""
    distances = np.linalg.norm(image[:, :, None].astype(float) - PALETTE, axis=-1)
    nearest, is_hero = distances.argmin(-1), distances.min(-1) < NEAR
    shares = []
    for half, other in zip(halves(len(image)), reversed(looks), strict=True):
        theirs = [list(words.COLORS).index(color) for color in (other.color, other.hat_color, other.scarf_color)]
        inside = np.isin(nearest[half.numpy() & is_hero], theirs)
        shares.append(float(inside.mean()) if inside.size else 0.5)
    return shares[0], shares[1]


def placed(found: FoundRegions, images: int) -> float:
    """Share of the found regions that lies in the half of their hero."""
    right = total = 0
    for name, half in zip(NAMES, halves(found.size[0]), strict=True):
        for image in range(images):
            tokens = found.tokens(name, image, found.size)
            if tokens is not None:
                right, total = right + int(tokens[half.flatten()].sum()), total + int(tokens.sum())
    return right / total if total else float("nan")
