"""Stage 2: a small CLIP of the world, whose text tower is also what the picture model reads.

First the image tower alone is asked for every attribute, which is quick; then both learn together, contrastively, with
captions that differ from the true one in a single word among the candidates, and both still asked: left to themselves,
towers of this size take left and right for the same.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from storyreel.core.storyworld import attributes as world
from storyreel.core.storyworld import captions
from storyreel.core.storyworld.attributes import Picture, attributes
from storyreel.core.storyworld.world import sample_clip
from torch import Tensor, nn

from .attention import attend
from .autoencoder import to_tensor
from .pictures import Pictures, Recipe, draw
from .tokenizer import Vocabulary, with_strangers
from .trainer import Plan, device, train

SIGHT_PLAN = Plan(steps=3000, batch=96, rate=1.5e-3, ema=0.998, warmup=200)
PLAN = Plan(steps=2200, batch=96, rate=1e-3, ema=0.998, warmup=200)
DATA = Recipe(seed=2000, count=48_000)
HELD_OUT = Recipe(seed=2, count=512)
NEGATIVES = 2  # captions beside the true one of each picture, each a word away from it
MOVE = 7  # a move of less than a patch changes no caption
LENGTH = 40  # tokens are enough for any caption, and what follows the end changes nothing before it

WIDTH, HEADS = 96, 4
TEXT_CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": None,  # a row of the vocabulary while training, the tokenizer's number afterwards
}
VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "image_size": 128,
    "patch_size": 16,
    "num_channels": 3,
    "projection_dim": WIDTH,
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # the host's defaults

CLIP_TEXTS = 32  # captions of clips in a batch, which the text tower reads without a picture: video models need them

# Every attribute that a caption may name, and its values; an action that differs between heroes is none of these.
VALUES = {
    "number": tuple(world.NUMBERS.values()),
    "shape": world.SHAPES,
    "colour": tuple(world.COLORS),
    "hat": world.HATS,
    "hat colour": tuple(world.COLORS),
    "scarf colour": tuple(world.COLORS),
    "action": tuple(dict.fromkeys((*world.PICTURE_ACTIONS, *world.CLIP_ACTIONS))),
    "scene": world.SCENES,
    "size": tuple(world.SIZES),
    "place": tuple(world.PLACES),
    "facing": tuple(world.FACINGS),
    "pan": world.PANS,
}
NONE = -1


class Towers(nn.Module):
    """Both towers as the host builds them, so that what is trained is what loads, and questions to be thrown away."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        import comfy.ops
        from comfy.clip_model import CLIPTextModel, CLIPVisionModelProjection

        operations = comfy.ops.disable_weight_init
        config = {**TEXT_CONFIG, "eos_token_id": vocabulary.end}
        self.text = CLIPTextModel(config, torch.float32, "cpu", operations)
        self.text.set_input_embeddings(operations.Embedding(len(vocabulary), WIDTH, dtype=torch.float32))
        self.vision = CLIPVisionModelProjection(VISION_CONFIG, torch.float32, "cpu", operations)
        for encoder in (self.text.text_model.encoder, self.vision.vision_model.encoder):
            for layer in encoder.layers:
                layer.forward = partial(_forward, layer)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))
        self.asked_of_images = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in VALUES.items()})
        self.asked_of_texts = nn.ModuleDict(
            {name: nn.Linear(WIDTH, len(values) + 1) for name, values in VALUES.items()}
        )
        for name, weight in self.named_parameters():
            if "asked" in name or name == "logit_scale":
                continue
            if "norm" in name and name.endswith("weight"):
                nn.init.ones_(weight)
            elif weight.ndim > 1 or "class_embedding" in name:
                nn.init.normal_(weight, std=0.05)
            else:
                nn.init.zeros_(weight)
        # As loud as the patches (768 values of about 1 each), or where a thing stands would hardly be heard.
        nn.init.normal_(self.vision.vision_model.embeddings.patch_embedding.weight, std=0.02)
        nn.init.normal_(self.vision.vision_model.embeddings.position_embedding.weight, std=0.5)

    def read(self, tokens: Tensor) -> Tensor:
        """Rows of the vocabulary [B, n] -> embeddings [B, WIDTH]."""
        embedded = self.text.text_model.embeddings.token_embedding(tokens)
        x = embedded + self.text.text_model.embeddings.position_embedding.weight[: tokens.shape[1]]
        mask = torch.full((tokens.shape[1],) * 2, -torch.inf, device=x.device).triu_(1)
        x, _ = self.text.text_model.encoder(x, mask=mask.to(x.dtype))
        x = self.text.text_model.final_layer_norm(x)
        ends = (tokens == self.text.text_model.eos_token_id).int().argmax(1)
        return self.text.text_projection(x[torch.arange(len(x)), ends])

    def see(self, images: Tensor) -> Tensor:
        """[B, 3, 128, 128], normalised -> embeddings [B, WIDTH]."""
        return self.vision(pixel_values=images)[2]

    def weights(self) -> dict[str, Tensor]:
        """What ships, under transformers' names: the questions stay behind."""
        towers = {**self.text.state_dict(keep_vars=True), **self.vision.state_dict(keep_vars=True)}
        return {**towers, "logit_scale": self.logit_scale}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in self.weights().items():
            tensor.data.copy_(weights[name])


def _forward(layer: nn.Module, x: Tensor, mask=None, optimized_attention=None) -> Tensor:
    """The host's layer adds in place, which gradients do not survive."""
    x = x + layer.self_attn(layer.layer_norm1(x), mask, attend)
    return x + layer.mlp(layer.layer_norm2(x))


def shift(images: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """The pictures moved by up to MOVE pixels, their edges repeated: patches must not be learned by heart."""
    down, right = torch.randint(0, 2 * MOVE + 1, (2, len(images)), generator=generator).tolist()
    wide = np.pad(images, ((0, 0), (MOVE, MOVE), (MOVE, MOVE), (0, 0)), mode="edge")
    size = images.shape[1]
    moved = zip(wide, down, right, strict=True)
    return np.stack([image[top : top + size, left : left + size] for image, top, left in moved])


def normalise(images: np.ndarray) -> Tensor:
    """uint8 [B, 128, 128, 3] -> what the host's image encoder makes of it."""
    mean, std = (torch.tensor(values, device=device()).view(3, 1, 1) for values in (MEAN, STD))
    return ((to_tensor(images) + 1) / 2 - mean) / std


def codes(picture: Picture) -> np.ndarray:
    """The number of each attribute's value, NONE where a picture has none."""
    has = attributes(picture)
    return np.array([VALUES[name].index(has[name]) if has.get(name) in VALUES[name] else NONE for name in VALUES])


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
    return picture.with_look(**{name.replace(" ", "_").replace("colour", "color"): value}), name


def codes_said(picture: Picture, named: frozenset[str]) -> np.ndarray:
    """The codes of what a caption says, NONE for what it leaves open."""
    says = [name in named or name == "number" for name in VALUES]
    return np.where(says, codes(picture), NONE)


def train_clip(
    folder: Path,
    vocabulary: Vocabulary,
    plan: Plan = PLAN,
    sight_plan: Plan = SIGHT_PLAN,
    recipe: Recipe = DATA,
    held_out: Recipe = HELD_OUT,
) -> tuple[Towers, dict[str, float]]:
    """The trained towers and what they reach on pictures that they never saw."""
    torch.manual_seed(plan.seed)
    towers = Towers(vocabulary).to(device())
    pictures = draw(recipe, folder / "data")
    truths = [pictures.truth(index) for index in range(len(pictures))]
    shown_everywhere = torch.from_numpy(np.stack([codes(truth) for truth in truths]))
    clips = [sample_clip(recipe.seed, index, twins=0.2) for index in range(min(4000, len(pictures)))]

    def sight(step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(pictures), (sight_plan.batch,), generator=generator)
        images = towers.see(normalise(shift(pictures.images[picks.numpy()], generator)))
        return mean_entropy(towers.asked_of_images, images, shown_everywhere[picks].to(device())), {}

    sighted = nn.ModuleDict({"vision": towers.vision, "questions": towers.asked_of_images})
    train("sight", sighted, sight, sight_plan, folder)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(pictures), (plan.batch,), generator=generator).tolist()
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        batch = [truths[pick] for pick in picks]
        texts, said = caption_all(rng, batch)
        pairs = len(texts)
        for truth in rng.sample(clips, CLIP_TEXTS):
            named = captions.choose_named(rng, truth)
            texts.append(with_strangers(rng, captions.caption(truth, named)))
            said = np.concatenate([said, codes_said(truth, named)[None]])
        shown = shown_everywhere[picks].to(device())

        images = towers.see(normalise(shift(pictures.images[picks], generator)))
        words = towers.read(vocabulary.encode(texts, LENGTH).to(device()))
        logits = similarity(images, words[:pairs]) * towers.logit_scale.exp().clamp(max=100)
        said = torch.from_numpy(said).to(device())
        # A caption may be true of other pictures of the batch: those pairs are neither right nor wrong.
        fits = ((said[None, :pairs] == NONE) | (said[None, :pairs] == shown[:, None])).all(-1)
        own = torch.eye(len(batch), pairs, dtype=torch.bool, device=fits.device)
        logits = logits.float().masked_fill(fits & ~own, -torch.inf)
        target = torch.arange(len(batch), device=fits.device)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(batch)].T, target)) / 2

        seen = mean_entropy(towers.asked_of_images, images, shown)
        understood = mean_entropy(towers.asked_of_texts, words, said + 1)
        right = (logits.argmax(1) == target).float().mean()
        figures = {"contrast": contrast.item(), "seen": seen.item(), "understood": understood.item()}
        return contrast + seen + understood, {**figures, "right": right.item()}

    train("clip", nn.ModuleDict({"towers": towers}), loss, plan, folder)
    return towers, measure(towers, vocabulary, draw(held_out, folder / "data"))


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
    return texts, np.stack([codes_said(picture, named) for picture, named in true + false])


def similarity(images: Tensor, words: Tensor) -> Tensor:
    """Cosines [images, words]."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(words.float(), dim=-1).T


def mean_entropy(questions: nn.ModuleDict, embeddings: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy of the answers [B, attributes] to all questions; NONE is not asked."""
    losses = [
        F.cross_entropy(question(embeddings).float(), answers[:, i], ignore_index=NONE)
        for i, question in enumerate(questions.values())
        if (answers[:, i] != NONE).any()
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def measure(towers: Towers, vocabulary: Vocabulary, pictures: Pictures, tries: int = 4) -> dict[str, float]:
    """Share of pictures whose caption beats one that is a word away, over all attributes and for each."""
    rng = Random("retrieval")
    right: dict[str, list[bool]] = {name: [] for name in VALUES}
    for start in range(0, len(pictures), 64):
        picks = range(start, min(start + 64, len(pictures)))
        images = F.normalize(towers.see(normalise(pictures.images[picks])).float(), dim=-1)
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
