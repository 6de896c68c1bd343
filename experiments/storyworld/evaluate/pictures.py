"""The claim of Consistent Self-Attention, measured: stories in which a caption leaves some of the hero's looks open.

Every story names the action and the scene of each frame and some of the hero's attributes, drawn by chance; what it
does not name is free, and consistency is that the frames of a story agree on it. A reader says what each picture shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pack
import torch
from torch import Tensor

pack.load_pack()
from storyreel.core.attention.presets import PRESETS  # noqa: E402
from storyreel.core.story.noise import DIFFERENT, PER_CHARACTER, SAME, noise_indices  # noqa: E402
from storyreel.core.story.script import read_script  # noqa: E402
from storyreel.core.story.story import Story  # noqa: E402
from storyreel.core.story.styles import NO_STYLE, PLACE, Style  # noqa: E402
from storyreel.core.storyworld import captions, world  # noqa: E402
from storyreel.core.storyworld.attributes import Picture, attributes  # noqa: E402

from ..train import export as shipping  # noqa: E402
from ..train.classifier import NOBODY, Reader  # noqa: E402
from .backgrounds import Backdrops  # noqa: E402

COLOURS = ("colour", "hat colour", "scarf colour")
SHAPES = ("shape", "hat")
STEPS, GUIDANCE, SAMPLER, SCHEDULER = 16, 3.0, "euler", "normal"
RESAMPLES = 2000
MARGIN = 8  # pixels around a hero's box


@dataclass(frozen=True)
class Setting:
    """A way to draw a story.

    inputs: of StoryReelConsistentAttention, None for the plain model. placed: captions name the hero's place, too.
    boxed: tokens are shared only in a box around that place.
    """

    name: str
    noise: str = DIFFERENT
    inputs: dict | None = field(default=None, hash=False)
    placed: bool = False
    boxed: bool = False


def read_setting(name: str) -> Setting:
    """A setting from its name: `plain` or `csa`, then what differs from the default, each after a dash.

    noise-same, noise-character, placed, boxed (which is placed, too). For csa: a preset (low-vram, mask, paper,
    custom), all (all blocks, custom), a rate by itself, or anchors-4, tile-3, stride-1, blocks-up, start-0.1,
    end-0.5, strength-0.5, fine-0.25.
    Raises ValueError for a name that says something else.
    """
    rest = name
    noise = DIFFERENT
    boxed = rest.endswith("-boxed")
    rest = rest.removesuffix("-boxed")
    placed = boxed or rest.endswith("-placed")
    rest = rest.removesuffix("-placed")
    for ending, policy in (("-noise-same", SAME), ("-noise-character", PER_CHARACTER)):
        if rest.endswith(ending):
            rest, noise = rest.removesuffix(ending), policy
    if rest == "plain":
        return Setting(name, noise, placed=placed)
    number = r"(\d*\.?\d+)"
    match = re.fullmatch(rf"csa(?:-({'|'.join(PRESETS)}|all))?(?:-{number})?((?:-[a-z]+-[a-z0-9.]+)*)", rest)
    if not match:
        raise ValueError(f'"{name}" is no setting; plain, csa, csa-mask, csa-all-1, csa-anchors-0 would be some.')
    preset, rate, changes = match.groups()
    inputs = {"preset": "custom", "blocks": "all"} if preset == "all" else {"preset": preset or "low-vram"}
    if rate:
        inputs |= {"sampling_rate": float(rate), "sampling_rate_fine": float(rate)}
    keys = {"anchors": "anchors", "tile": "tile_size", "stride": "tile_stride", "blocks": "blocks"}
    keys |= {"start": "start_percent", "end": "end_percent", "strength": "strength", "fine": "sampling_rate_fine"}
    for key, value in re.findall(r"-([a-z]+)-([a-z0-9.]+)", changes):
        if key not in keys:
            raise ValueError(f'"{name}": {key} is none of {", ".join(keys)}.')
        integer = key in ("anchors", "tile", "stride")
        inputs[keys[key]] = value if key == "blocks" else int(value) if integer else float(value)
    if inputs["preset"] == "paper":
        inputs.pop("sampling_rate_fine", None)
    return Setting(name, noise, inputs, placed, boxed)


@dataclass(frozen=True)
class Task:
    """A story to be drawn: the truth it was told from, what its captions name, and the script as the pack reads it."""

    pictures: tuple[Picture, ...]
    named: frozenset[str]
    story: Story
    seed: int


def make_task(seed: int, index: int, frames: int, placed: bool = False) -> Task:
    """Story number `index`. Each of the hero's attributes is named in one story out of three."""
    rng = Random(f"measure/{seed}/{index}")
    pictures = world.sample_story(seed, index, frames)
    looks = {name for name in (*COLOURS, *SHAPES) if rng.random() < 1 / 3}
    named = frozenset({"action", "scene", *looks, *(["place"] if placed else [])})
    characters, scenes = captions.script(pictures, named)
    story, _ = read_script(characters, scenes, NO_STYLE, "", {NO_STYLE: Style(NO_STYLE, PLACE)})
    return Task(pictures, named, story, rng.randrange(2**32))


class Studio:
    """The models in the host's hands, and the judges of what they draw."""

    def __init__(self, reader: Reader, backdrops: Backdrops, model, clip, vae):
        self.reader, self.backdrops = reader, backdrops
        self.model, self.clip, self.vae = model, clip, vae

    def draw(self, setting: Setting, task: Task) -> np.ndarray:
        """uint8 [frames, 128, 128, 3]: the host's sampler, VAE and nodes' own functions, as a graph would run them."""
        import comfy.sample
        from storyreel.host.common.conditioning import encode_story
        from storyreel.host.story.latents import empty_story_latent
        from storyreel.nodes.attention import StoryReelConsistentAttention

        model = self.model
        if setting.inputs is not None:
            inputs = dict(setting.inputs)
            strength = inputs.pop("strength", 1.0)
            output = StoryReelConsistentAttention.execute(
                model,
                inputs,
                strength=strength,
                seed=task.seed,
                story=task.story,
                mask=boxes(task) if setting.boxed else None,
            )
            model = output.result[0]
        prompts = [frame.prompt for frame in task.story.frames]
        positive, negative = encode_story(self.clip, prompts, "")
        latent = empty_story_latent(noise_indices(task.story, setting.noise), world.SIZE, world.SIZE)
        empty = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        noise = comfy.sample.prepare_noise(empty, task.seed, latent["batch_index"])
        sampled = comfy.sample.sample(
            model, noise, STEPS, GUIDANCE, SAMPLER, SCHEDULER, positive, negative, empty, disable_pbar=True
        )
        return (self.vae.decode(sampled) * 255).round().byte().numpy()


def boxes(task: Task) -> Tensor:
    """[F, 128, 128], 1 in a box around where each frame's hero is told to be: what a user would draw by hand."""
    masks = torch.zeros(len(task.pictures), world.SIZE, world.SIZE)
    for mask, picture in zip(masks, task.pictures, strict=True):
        rows, columns = (np.flatnonzero(world.render_picture(picture).masks.any((0, axis))) for axis in (2, 1))
        top, left = max(0, rows[0] - MARGIN), max(0, columns[0] - MARGIN)
        mask[top : rows[-1] + MARGIN + 1, left : columns[-1] + MARGIN + 1] = 1
    return masks


def open_studio(weights: Path | None, reader: Path, data: Path, unet: str = "unet") -> Studio:
    """The models that ship, or those of another folder. data: for the drawings that the judges compare with."""
    import folder_paths
    from storyreel.host import storyworld

    if weights:
        folder_paths.add_model_folder_path(storyworld.FOLDER, str(weights), is_default=True)
    storyworld.register()
    judge = shipping.filled(Reader(), reader)
    vae = storyworld.load_vae()
    return Studio(judge, Backdrops(data, vae), storyworld.load_model(part=unet), storyworld.load_clip(), vae)


@dataclass(frozen=True)
class Shares:
    """Shares over what a story's pictures show; nan where a story leaves nothing of the kind to judge."""

    colours: float
    shapes: float
    named: float
    scene: float
    action: float
    present: float
    stray: float


def judge(task: Task, words: dict[str, list[str]], stray: float) -> Shares:
    """What the reader's words say of a story. Pictures without a hero agree with nothing and have nothing right.

    stray: share of background pixels in a colour that the scene does not have.
    """
    frames = range(len(task.pictures))
    there = [words["number"][frame] != NOBODY for frame in frames]
    truth = [attributes(picture) for picture in task.pictures]

    def agreement(names: tuple[str, ...]) -> float:
        free = [name for name in names if name not in task.named]
        pairs = [
            there[a] and there[b] and words[name][a] == words[name][b]
            for name in free
            for a, b in combinations(frames, 2)
        ]
        return float(np.mean(pairs)) if pairs else float("nan")

    def right(names) -> float:
        answers = [there[frame] and words[name][frame] == truth[frame][name] for name in names for frame in frames]
        return float(np.mean(answers)) if answers else float("nan")

    looks = [name for name in (*COLOURS, *SHAPES) if name in task.named]
    scene = float(np.mean([words["scene"][frame] == truth[frame]["scene"] for frame in frames]))
    return Shares(
        agreement(COLOURS), agreement(SHAPES), right(looks), scene, right(["action"]), float(np.mean(there)), stray
    )


def diversity(tasks: list[Task], read: list[dict[str, list[str]]]) -> float:
    """Share of pairs of stories whose first pictures differ in a colour that neither names."""
    differ = [
        read[a][name][0] != read[b][name][0]
        for a, b in combinations(range(len(tasks)), 2)
        for name in COLOURS
        if name not in tasks[a].named | tasks[b].named
    ]
    return float(np.mean(differ)) if differ else float("nan")


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean over stories, and a 95 % bootstrap interval of it."""
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return (float("nan"),) * 3
    picks = np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
    low, high = np.percentile(known[picks].mean(1), [2.5, 97.5])
    return float(known.mean()), float(low), float(high)


def measure(studio: Studio, setting: Setting, stories: int, seed: int, frames: int, each=None) -> dict:
    """One row of the table. each(pictures, task) is called with every story that was drawn."""
    tasks, read, shares = [], [], []
    for index in range(stories):
        task = make_task(seed, index, frames, setting.placed)
        pictures = studio.draw(setting, task)
        words = studio.reader.answer(pictures)
        scenes = [picture.scene for picture in task.pictures]
        stray = np.mean([studio.backdrops.stray(*pair) for pair in zip(pictures, scenes, strict=True)])
        tasks.append(task)
        read.append(words)
        shares.append(judge(task, words, float(stray)))
        if each:
            each(pictures, task)
    row = {"setting": setting.name, "stories": stories, "seed": seed, "frames": frames}
    for name in ("colours", "shapes", "named", "scene", "action", "stray"):
        figures = interval([getattr(share, name) for share in shares])
        row |= zip((name, f"{name}_low", f"{name}_high"), map(rounded, figures), strict=True)
    row["vanished"] = rounded(1 - float(np.mean([share.present for share in shares])))
    row["diversity"] = rounded(diversity(tasks, read))
    return row


def rounded(figure: float) -> float | None:
    """For JSON, which has no nan."""
    return None if np.isnan(figure) else round(figure, 4)
