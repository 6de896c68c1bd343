"""Stage 1: the autoencoder. Crops that mostly show a hero; L1, gradients and squared error, the hero counted more."""

import numpy as np
import torch
from storyreel.core.networks.storyworld import Autoencoder
from storyreel.core.training import TrainConfig
from torch import Tensor

from .encoding import to_tensor
from .pictures import Pictures, Recipe, draw
from .trainer import device
from .workspace import Workspace

CONFIG = TrainConfig(steps=11_000, batch_size=16, learning_rate=2e-3, ema=0.998)
DATA = Recipe(seed=1000, count=16_000, clips=0.3)
HELD_OUT = Recipe(seed=1, count=256)
CROP = 64
LATENT_NOISE = 0.04  # of latents whose spread is about 1: near latents must look alike
HERO_WEIGHT = 3.0


def train_autoencoder(work: Workspace) -> None:
    config, pictures = work.config(CONFIG), draw(work.recipe(DATA), work.data)
    torch.manual_seed(config.seed)
    model = Autoencoder().to(device(), memory_format=torch.channels_last)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        images, weights = crops(pictures, config.batch_size, generator)
        latent = model.encode(images)
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        error = model.decode(latent + LATENT_NOISE * noise).float() - images
        spread = (latent.float().std() - 1).square()
        terms = error.abs() + 4 * error.square()
        gradients = sum(
            (error.diff(dim=dim).abs() * weights.narrow(dim, 1, weights.shape[dim] - 1)).mean() for dim in (2, 3)
        )
        return (terms * weights).mean() + 0.5 * gradients + 0.1 * spread, {"spread": latent.float().std().item()}

    work.train("autoencoder", {"model": model}, loss, config)
    results = measure(model, draw(work.recipe(HELD_OUT), work.data))
    work.save("autoencoder", model.state_dict(), config, pictures.recipe, results)


def crops(pictures: Pictures, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[count, 3, CROP, CROP] from -1 to 1, aligned to latents, and weights [count, 1, CROP, CROP]."""
    picks = torch.randint(len(pictures), (count,), generator=generator).tolist()
    places = torch.rand(count, 2, generator=generator)
    towards = torch.rand(count, generator=generator) < 0.7
    images, weights = [], []
    room = pictures.images.shape[1] - CROP
    for pick, place, hero in zip(picks, places.tolist(), towards.tolist(), strict=True):
        mask = pictures.heroes[pick]
        top, left = (int(fraction * room) for fraction in place)
        if hero and mask.any():
            ys, xs = np.nonzero(mask)
            choice = int(place[0] * len(ys))
            top, left = int(ys[choice] - place[1] * CROP), int(xs[choice] - place[0] * CROP)
        top, left = (min(max(value, 0), room) // 8 * 8 for value in (top, left))
        window = slice(top, top + CROP), slice(left, left + CROP)
        images.append(pictures.images[pick][window])
        weights.append(mask[window])
    images = to_tensor(np.stack(images))
    weights = 1 + (HERO_WEIGHT - 1) * torch.from_numpy(np.stack(weights))[:, None].to(device()).float() / 255
    return images, weights


@torch.no_grad()
def measure(model: Autoencoder, pictures: Pictures) -> dict[str, float]:
    """PSNR in dB of whole pictures, and of the pixels that show a hero."""
    errors, heroes = [], []
    for start in range(0, len(pictures), 32):
        truth = to_tensor(pictures.images[start : start + 32])
        error = (model.decode(model.encode(truth)).clamp(-1, 1) - truth).div(2).square().mean(1)
        mask = torch.from_numpy(np.array(pictures.heroes[start : start + 32])).to(error) / 255
        errors += error.mean((1, 2)).tolist()
        heroes += ((error * mask).sum((1, 2)) / mask.sum((1, 2))).tolist()
    return {
        "psnr": -10 * float(np.mean(np.log10(errors))),
        "psnr_hero": -10 * float(np.mean(np.log10(heroes))),
    }
