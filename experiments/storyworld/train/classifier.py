"""The reader: a small classifier that says what a picture shows. It judges the picture model, and ships with nothing.

It learns from drawn pictures as the autoencoder gives them back, so that it reads what a sampler decodes.
"""

from pathlib import Path

import numpy as np
import torch
from storyreel.core.storyworld import attributes as world
from torch import Tensor, nn

from .autoencoder import Autoencoder, to_tensor
from .clip import NONE, VALUES, codes, mean_entropy
from .pictures import Pictures, Recipe, draw
from .trainer import Plan, device, train

PLAN = Plan(steps=2400, batch=32, rate=2e-3, ema=0.995)
HELD_OUT = Recipe(seed=3, count=1024, twins=0.1, triplets=0.05)
NOBODY = "nobody"
ASKED = [name for name in VALUES if name != "pan"]
ANSWERS = {name: VALUES[name] for name in ASKED} | {  # in the order of the codes
    "number": (*VALUES["number"], NOBODY),  # a model may paint no hero at all
    "action": world.PICTURE_ACTIONS,
}


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
        self.heads = nn.ModuleDict({name: nn.Linear(2 * deep, len(values)) for name, values in ANSWERS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        found = self.body(pictures)
        return {name: head(found) for name, head in self.heads.items()}

    @torch.no_grad()
    def answer(self, images: np.ndarray, batch: int = 64) -> dict[str, list[str]]:
        """{attribute: the word for each picture} of uint8 [count, 128, 128, 3]."""
        words = {name: [] for name in ANSWERS}
        for start in range(0, len(images), batch):
            for name, logits in self(to_tensor(images[start : start + batch])).items():
                words[name] += [ANSWERS[name][choice] for choice in logits.argmax(1).tolist()]
        return words


def train_reader(
    folder: Path, autoencoder: Autoencoder, pictures: Pictures, plan: Plan = PLAN, held_out: Recipe = HELD_OUT
) -> tuple[Classifier, dict[str, float]]:
    """The trained reader and its accuracy on pictures that it never saw, after the autoencoder."""
    torch.manual_seed(plan.seed)
    reader = Classifier().to(device(), memory_format=torch.channels_last)
    shown = np.stack([codes(pictures.truth(index)) for index in range(len(pictures))])
    scenes = empty_scenes(pictures)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(pictures), (plan.batch,), generator=generator).numpy()
        empty = torch.randint(len(scenes), (max(1, plan.batch // 16),), generator=generator).numpy()
        images = to_tensor(np.concatenate([pictures.images[np.sort(picks)], scenes[empty]]))
        answers = np.concatenate([shown[np.sort(picks)], np.full((len(empty), shown.shape[1]), NONE)])
        answers[len(picks) :, 0] = len(ANSWERS["number"]) - 1
        with torch.no_grad():
            some = slice(None, None, 3)  # a third of them
            latents = autoencoder.encode(images[some])
            latents = latents + 0.1 * torch.randn(latents.shape, generator=generator).to(latents)
            images[some] = autoencoder.decode(latents).to(images.dtype)
            images = images + 0.03 * torch.randn(images.shape, generator=generator).to(images)
        answers = torch.from_numpy(answers).to(images.device)
        found = reader.body(images)
        value = mean_entropy(reader.heads, found, answers)
        return value, {}

    train("classifier", nn.ModuleDict({"reader": reader}), loss, plan, folder)
    return reader, measure(reader, autoencoder, draw(held_out, folder / "data"))


def empty_scenes(pictures: Pictures, count: int = 400) -> np.ndarray:
    """The world without heroes: what a picture shows where another picture of its scene has its hero."""
    from storyreel.core.storyworld.canvas import Canvas
    from storyreel.core.storyworld.scenes import draw_scene

    drawn = []
    for index in range(min(count, len(pictures))):
        truth = pictures.truth(index)
        canvas = Canvas(pictures.images.shape[1])
        draw_scene(canvas, truth.scene, truth.scenery, 0.0)
        drawn.append(canvas.image())
    return np.stack(drawn)


@torch.no_grad()
def measure(reader: Classifier, autoencoder: Autoencoder, pictures: Pictures) -> dict[str, float]:
    """Accuracy of every attribute on pictures as the autoencoder gives them back."""
    back = []
    for start in range(0, len(pictures), 64):
        decoded = autoencoder.decode(autoencoder.encode(to_tensor(pictures.images[start : start + 64])))
        back.append(to_images(decoded))
    words = reader.answer(np.concatenate(back))
    truth = np.stack([codes(pictures.truth(index)) for index in range(len(pictures))])
    figures = {}
    for i, name in enumerate(ASKED):
        pairs = [
            (ANSWERS[name][code], word) for code, word in zip(truth[:, i], words[name], strict=True) if code != NONE
        ]
        if pairs:
            figures[name] = float(np.mean([expected == word for expected, word in pairs]))
    return figures


def to_images(decoded: Tensor) -> np.ndarray:
    """[B, 3, H, W] from -1 to 1 -> uint8 [B, H, W, 3]."""
    return ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
