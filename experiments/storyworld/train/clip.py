"""Stage 2: a small CLIP of the world, whose text tower is also what the picture model reads.

First the image tower alone is asked for every attribute, which is quick; then both learn together, contrastively, with
captions that differ from the true one in a single word among the candidates, and both still asked: left to themselves,
towers of this size take left and right for the same.
"""

from dataclasses import replace
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from storyreel.core.storyworld import attributes as world
from storyreel.core.storyworld import captions
from storyreel.core.storyworld.attributes import Picture, attributes
from storyreel.core.storyworld.world import sample_clip
from storyreel.core.training import TrainConfig
from torch import Tensor

from .encoding import encoder_input
from .pictures import Pictures, Recipe, draw
from .tokenizer import Vocabulary, with_strangers
from .towers import NONE, TEXT_CONFIG, VALUES, VISION_CONFIG, Towers, codes, mean_entropy
from .trainer import device
from .workspace import Workspace

SIGHT = TrainConfig(steps=3000, batch_size=96, learning_rate=1.5e-3, ema=0.998, warmup=200)
CONFIG = TrainConfig(steps=2200, batch_size=96, learning_rate=1e-3, ema=0.998, warmup=200)
DATA = Recipe(seed=2000, count=48_000)
HELD_OUT = Recipe(seed=2, count=512)
NEGATIVES = 2  # captions beside the true one of each picture, each a word away from it
MOVE = 7  # a move of less than a patch changes no caption
LENGTH = 40  # tokens are enough for any caption, and what follows the end changes nothing before it

CLIP_TEXTS = 32  # captions of clips in a batch, which the text tower reads without a picture: video models need them


def shift(images: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """The pictures moved by up to MOVE pixels, their edges repeated: patches must not be learned by heart."""
    down, right = torch.randint(0, 2 * MOVE + 1, (2, len(images)), generator=generator).tolist()
    wide = np.pad(images, ((0, 0), (MOVE, MOVE), (MOVE, MOVE), (0, 0)), mode="edge")
    size = images.shape[1]
    moved = zip(wide, down, right, strict=True)
    return np.stack([image[top : top + size, left : left + size] for image, top, left in moved])


def alter(rng: Random, picture: Picture, named: frozenset[str]) -> tuple[Picture, str] | None:
    """The picture that differs in one attribute of those named, and its name; None if there is nothing to change."""
    has = attributes(picture)
    names = [name for name in VALUES if name in named and name != "number" and has.get(name) in VALUES[name]]
    if not names:
        return None
    name = rng.choice(names)
    values = world.PICTURE_ACTIONS if name == "action" else VALUES[name]
    value = rng.choice([other for other in values if other != has[name]])
    figures = picture.figures
    if name == "scene":
        return replace(picture, scene=value), name
    if name == "place":
        return replace(picture, figures=(replace(figures[0], x=world.PLACES[value]),)), name
    if name in ("action", "size", "facing"):
        return replace(picture, figures=tuple(replace(figure, **{name: value}) for figure in figures)), name
    return picture.with_look(**{name.replace(" ", "_"): value}), name


def named_codes(picture: Picture, named: frozenset[str]) -> np.ndarray:
    """The codes of what a caption says, NONE for what it leaves open."""
    says = [name in named or name == "number" for name in VALUES]
    return np.where(says, codes(picture), NONE)


def train_clip(work: Workspace) -> None:
    config, sight_config, recipe = work.config(CONFIG), work.config(SIGHT), work.recipe(DATA)
    torch.manual_seed(config.seed)
    vocabulary = work.vocabulary
    towers = Towers(vocabulary).to(device())
    pictures = draw(recipe, work.data)
    truths = [pictures.truth(index) for index in range(len(pictures))]
    shown_everywhere = torch.from_numpy(np.stack([codes(truth) for truth in truths]))
    clips = [sample_clip(recipe.seed, index, twins=0.2) for index in range(min(4000, len(pictures)))]

    def sight(generator: torch.Generator) -> Tensor:
        picks = torch.randint(len(pictures), (sight_config.batch_size,), generator=generator)
        images = towers.see(encoder_input(shift(pictures.images[picks.numpy()], generator)))
        return mean_entropy(towers.asked_of_images, images, shown_everywhere[picks].to(device()))

    sighted = {"vision": towers.vision, "questions": towers.asked_of_images}
    work.train("sight", sighted, sight, sight_config)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(pictures), (config.batch_size,), generator=generator).tolist()
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        batch = [truths[pick] for pick in picks]
        texts, named_values = caption_all(rng, batch)
        pairs = len(texts)
        for truth in rng.sample(clips, CLIP_TEXTS):
            named = captions.choose_named(rng, truth)
            texts.append(with_strangers(rng, captions.caption(truth, named)))
            named_values = np.concatenate([named_values, named_codes(truth, named)[None]])
        shown = shown_everywhere[picks].to(device())

        images = towers.see(encoder_input(shift(pictures.images[picks], generator)))
        words = towers.read(vocabulary.encode(texts, LENGTH).to(device()))
        logits = similarity(images, words[:pairs]) * towers.logit_scale.exp().clamp(max=100)
        named_values = torch.from_numpy(named_values).to(device())
        # A caption may be true of other pictures of the batch: those pairs are neither right nor wrong.
        fits = ((named_values[None, :pairs] == NONE) | (named_values[None, :pairs] == shown[:, None])).all(-1)
        own = torch.eye(len(batch), pairs, dtype=torch.bool, device=fits.device)
        logits = logits.float().masked_fill(fits & ~own, -torch.inf)
        target = torch.arange(len(batch), device=fits.device)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(batch)].T, target)) / 2

        seen = mean_entropy(towers.asked_of_images, images, shown)
        understood = mean_entropy(towers.asked_of_texts, words, named_values + 1)
        right = (logits.argmax(1) == target).float().mean()
        parts = {"contrast": contrast.item(), "seen": seen.item(), "understood": understood.item()}
        return contrast + seen + understood, {**parts, "right": right.item()}

    work.train("clip", {"towers": towers}, loss, config)
    results = measure(towers, vocabulary, draw(work.recipe(HELD_OUT), work.data))
    network = {
        "text": {name: value for name, value in TEXT_CONFIG.items() if value is not None},
        "vision": VISION_CONFIG,
        "token_ids": vocabulary.token_ids,
    }
    work.save("clip", towers.weights(), config, recipe, results, network)


def choose_named(rng: Random, picture: Picture) -> frozenset[str]:
    """What a caption names, where the hero stands and looks more often than elsewhere: that is what takes longest."""
    named = captions.choose_named(rng, picture)
    return named | ({"place", "facing"} & attributes(picture).keys()) if rng.random() < 0.5 else named


def caption_all(rng: Random, batch: list[Picture]) -> tuple[list[str], np.ndarray]:
    """Captions of the pictures, then decoys that differ from one of them in a word; and the codes of what all say."""
    true, false = [], []
    for picture in batch:
        named = choose_named(rng, picture)
        true.append((picture, named))
        altered = (alter(rng, picture, named) for _ in range(NEGATIVES))
        false += [(decoy[0], named) for decoy in altered if decoy]
    texts = [with_strangers(rng, captions.caption(picture, named)) for picture, named in true + false]
    return texts, np.stack([named_codes(picture, named) for picture, named in true + false])


def similarity(images: Tensor, words: Tensor) -> Tensor:
    """Cosines [images, words]."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(words.float(), dim=-1).T


@torch.no_grad()
def measure(towers: Towers, vocabulary: Vocabulary, pictures: Pictures, tries: int = 4) -> dict[str, float]:
    """Share of pictures whose caption beats one that is a word away, over all attributes and for each."""
    rng = Random("retrieval")
    right: dict[str, list[bool]] = {name: [] for name in VALUES}
    for start in range(0, len(pictures), 64):
        picks = range(start, min(start + 64, len(pictures)))
        images = F.normalize(towers.see(encoder_input(pictures.images[picks])).float(), dim=-1)
        for _ in range(tries):
            for image, pick in zip(images, picks, strict=True):
                truth = pictures.truth(pick)
                named = captions.choose_named(rng, truth)
                altered = alter(rng, truth, named)
                if altered:
                    pair = [captions.caption(truth, named), captions.caption(altered[0], named)]
                    words = towers.read(vocabulary.encode(pair, LENGTH).to(device()))
                    score = similarity(image[None], words)[0]
                    right[altered[1]].append(bool(score[0] > score[1]))
    everything = [answer for answers in right.values() for answer in answers]
    each = {f"retrieval_{name}": float(np.mean(answers)) for name, answers in right.items() if answers}
    return {"retrieval": float(np.mean(everything)), **each}
