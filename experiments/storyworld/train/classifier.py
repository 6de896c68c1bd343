"""The classifiers: small networks that say what a picture shows, and what a hero does in a clip and where it goes. They
judge the models, and ship with nothing.

That of pictures learns from drawn ones as the autoencoder gives them back, so that it reads what a sampler decodes.
That of clips reads through the autoencoder's first half, which it does not train: sixteen frames at 128 x 128 are too
much for a small network, and what the autoencoder keeps is what a sampler can show.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from storyreel.core.storyworld import attributes as world
from storyreel.core.storyworld.attributes import Clip
from storyreel.core.storyworld.canvas import Canvas
from storyreel.core.storyworld.scenes import draw_scene
from storyreel.core.training import TrainConfig
from torch import Tensor, nn
from torch.nn import functional as F

from . import clip, video
from .clips import ClipRecipe, draw_clips
from .encoding import decode, encode, of_frames, to_images, to_tensor
from .pictures import Pictures, Recipe, draw
from .towers import NONE, VALUES, codes, mean_entropy
from .trainer import device
from .workspace import Workspace

CONFIG = TrainConfig(steps=2400, batch_size=32, learning_rate=2e-3, ema=0.995)
CLIP_CONFIG = TrainConfig(steps=3000, batch_size=32, learning_rate=2e-3, ema=0.99)
HELD_OUT = Recipe(seed=3, count=1024, twins=0.1, triplets=0.05)
CLIPS_HELD_OUT = ClipRecipe(seed=5, count=320)
NOISE = 0.3  # most of it that is added to latents of spread 1: a sampled clip is never quite clean
NOBODY, STAYS, NO_PAN = "nobody", "stays", "none"
ASKED = [name for name in VALUES if name != "pan"]
ANSWERS = {name: VALUES[name] for name in ASKED} | {  # in the order of the codes
    "number": (*VALUES["number"], NOBODY),  # a model may paint no hero at all
    "action": world.PICTURE_ACTIONS,
}
CLIP_ANSWERS = {"action": world.CLIP_ACTIONS, "path": ("left", STAYS, "right"), "pan": (NO_PAN, *world.PANS)}
TRAVELS = ("stepping", "walking", "leaping")


class Block(nn.Module):
    """x + two convolutions, each behind a norm. [B, width, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(*(layer for _ in range(2) for layer in (*normed(width), conv(width, width))))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def conv(width: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, stride, 1)


def normed(width: int) -> tuple[nn.Module, ...]:
    return nn.GroupNorm(8, width), nn.SiLU()


def heads(width: int, answers: Mapping[str, Sequence[str]]) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in answers.items()})


class Classifier(nn.Module):
    """[B, 3, 128, 128] from -1 to 1 -> {attribute: logits over `ANSWERS`}."""

    def __init__(self, width: int = 64):
        super().__init__()
        deep = 2 * width
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            conv(48, width),
            Block(width),
            conv(width, deep, 2),
            Block(deep),
            conv(deep, deep, 2),
            Block(deep),
            *normed(deep),
            conv(deep, deep, 2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * deep, 2 * deep),
            nn.SiLU(),
        )
        self.heads = heads(2 * deep, ANSWERS)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        found = self.body(pictures)
        return {name: head(found) for name, head in self.heads.items()}

    def answer(self, images: np.ndarray) -> dict[str, list[str]]:
        """{attribute: the word for each picture} of uint8 [count, 128, 128, 3]."""
        batches = (images[start : start + 64] for start in range(0, len(images), 64))
        return words_of(self, ANSWERS, map(to_tensor, batches))


class VideoClassifier(nn.Module):
    """Latents [B, T, 12, 16, 16] -> {question: logits over `CLIP_ANSWERS`}."""

    def __init__(self, width: int = 48, channels: int = 12):
        super().__init__()
        deep = 2 * width
        self.frames = nn.Sequential(
            conv(2 * channels, width),
            Block(width),
            conv(width, deep, 2),
            Block(deep),
            *normed(deep),
            conv(deep, deep, 2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * deep, deep),
        )
        self.time = nn.Sequential(
            *(layer for _ in range(3) for layer in (nn.SiLU(), nn.Conv1d(deep, deep, 5, padding=2)))
        )
        self.heads = heads(2 * deep, CLIP_ANSWERS)

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        steps = latents.diff(dim=1, prepend=latents[:, :1])
        frames = self.frames(torch.cat([latents, steps], 2).flatten(0, 1))
        times = self.time(frames.unflatten(0, latents.shape[:2]).mT)
        found = torch.cat([times.mean(2), times.amax(2)], 1)
        return {name: head(found) for name, head in self.heads.items()}

    def answer(self, autoencoder: nn.Module, clips: np.ndarray) -> dict[str, list[str]]:
        """{question: the word for each clip} of uint8 [clips, T, 128, 128, 3]."""
        latents = of_frames(encode, autoencoder, clips)
        return words_of(self, CLIP_ANSWERS, (some.to(device()).float() for some in latents.split(16)))


@torch.no_grad()
def words_of(classifier: nn.Module, answers: Mapping[str, Sequence[str]], batches) -> dict[str, list[str]]:
    """{question: the likeliest answer to it for each entry of all batches}."""
    words = {name: [] for name in answers}
    for batch in batches:
        for name, logits in classifier(batch).items():
            words[name] += [answers[name][choice] for choice in logits.argmax(1).tolist()]
    return words


def truth(clip: Clip) -> dict[str, str]:
    """The right answers for a clip of one hero."""
    action = clip.figures[0].action
    kind, _, way = action.partition(" ")
    return {"action": action, "path": way if kind in TRAVELS else STAYS, "pan": clip.pan or NO_PAN}


def train_classifier(work: Workspace) -> None:
    config, pictures, autoencoder = work.config(CONFIG), draw(work.recipe(clip.DATA), work.data), work.autoencoder
    torch.manual_seed(config.seed)
    classifier = Classifier().to(device(), memory_format=torch.channels_last)
    shown = np.stack([codes(pictures.truth(index)) for index in range(len(pictures))])
    scenes, some_empty = empty_scenes(pictures), max(1, config.batch_size // 16)

    def loss(generator: torch.Generator) -> Tensor:
        picks = torch.randint(len(pictures), (config.batch_size,), generator=generator).numpy()
        empty = torch.randint(len(scenes), (some_empty,), generator=generator).numpy()
        images = to_tensor(np.concatenate([pictures.images[np.sort(picks)], scenes[empty]]))
        answers = np.concatenate([shown[np.sort(picks)], np.full((len(empty), shown.shape[1]), NONE)])
        answers[len(picks) :, 0] = len(ANSWERS["number"]) - 1
        with torch.no_grad():
            some = slice(None, None, 3)  # a third of them
            latents = autoencoder.encode(images[some])
            latents = latents + 0.1 * torch.randn(latents.shape, generator=generator).to(latents)
            images[some] = autoencoder.decode(latents).to(images.dtype)
            images = images + 0.03 * torch.randn(images.shape, generator=generator).to(images)
        return mean_entropy(classifier.heads, classifier.body(images), torch.from_numpy(answers).to(images.device))

    work.train("classifier", {"classifier": classifier}, loss, config)
    results = measure(classifier, autoencoder, draw(work.recipe(HELD_OUT), work.data))
    work.save("classifier", classifier.state_dict(), config, pictures.recipe, results, {"answers": ANSWERS})


def empty_scenes(pictures: Pictures, count: int = 400) -> np.ndarray:
    """The world without heroes: what a picture shows where another picture of its scene has its hero."""
    drawn = []
    for index in range(min(count, len(pictures))):
        truth = pictures.truth(index)
        canvas = Canvas(pictures.images.shape[1])
        draw_scene(canvas, truth.scene, truth.scenery, 0.0)
        drawn.append(canvas.image())
    return np.stack(drawn)


@torch.no_grad()
def measure(classifier: Classifier, autoencoder: nn.Module, pictures: Pictures) -> dict[str, float]:
    """Accuracy of every attribute on pictures as the autoencoder gives them back."""
    parts = []
    for start in range(0, len(pictures), 64):
        decoded = autoencoder.decode(autoencoder.encode(to_tensor(pictures.images[start : start + 64])))
        parts.append(to_images(decoded))
    words = classifier.answer(np.concatenate(parts))
    rows = [codes(pictures.truth(index)) for index in range(len(pictures))]
    right = {name: [None if row[i] == NONE else ANSWERS[name][row[i]] for row in rows] for i, name in enumerate(ASKED)}
    return accuracy(words, right)


def train_video_classifier(work: Workspace) -> None:
    config, encoders = work.config(CLIP_CONFIG), (work.autoencoder, work.towers.vision, work.data)
    clips = draw_clips(work.recipe(video.DATA), *encoders)
    held_out = draw_clips(work.recipe(CLIPS_HELD_OUT), *encoders)
    torch.manual_seed(config.seed)
    classifier = VideoClassifier().to(device())
    truths = [truth(shown) for shown, _ in clips.truths()]
    answers = torch.tensor([[values.index(right[name]) for name, values in CLIP_ANSWERS.items()] for right in truths])

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(clips), (config.batch_size,), generator=generator)
        latents = clips.latents[picks].float()
        strength = NOISE * torch.rand(len(picks), 1, 1, 1, 1, generator=generator)
        latents = latents + strength * torch.randn(latents.shape, generator=generator)
        found = classifier(latents.to(device()))
        right = answers[picks].to(device())
        losses = [F.cross_entropy(logits.float(), right[:, i]) for i, logits in enumerate(found.values())]
        hits = (found["action"].argmax(1) == right[:, 0]).float().mean()
        return torch.stack(losses).sum(), {"right": hits.item()}

    work.train("video_classifier", {"classifier": classifier}, loss, config)
    frames = decode(work.autoencoder, held_out.latents.flatten(0, 1))
    words = classifier.answer(work.autoencoder, frames.reshape(*held_out.latents.shape[:2], *frames.shape[1:]))
    truths = [truth(shown) for shown, _ in held_out.truths()]
    results = accuracy(words, {name: [right[name] for right in truths] for name in CLIP_ANSWERS})
    gentle = [right["action"] if right["action"] in world.GENTLE_ACTIONS else None for right in truths]
    results["gentle"] = accuracy(words, {"action": gentle}).get("action", float("nan"))
    network = {"answers": CLIP_ANSWERS}
    work.save("video_classifier", classifier.state_dict(), config, clips.recipe, results, network)


def accuracy(words: Mapping[str, Sequence[str]], right: Mapping[str, Sequence[str | None]]) -> dict[str, float]:
    """{question: the share of right words}, of those that have a right answer."""
    results = {}
    for name, answers in right.items():
        pairs = [(word, answer) for word, answer in zip(words[name], answers, strict=True) if answer is not None]
        if pairs:
            results[name] = float(np.mean([word == answer for word, answer in pairs]))
    return results
