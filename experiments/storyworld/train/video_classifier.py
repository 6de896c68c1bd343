"""The reader of clips: a small classifier that says what a hero does and where it goes. It judges the video model.

It reads pictures through the autoencoder's first half, which it does not train: sixteen frames at 128 x 128 are too
much for a small network, and what the autoencoder keeps is what a sampler can show.
"""

from pathlib import Path

import numpy as np
import torch
from storyreel.core.storyworld import attributes as world
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoder import Autoencoder, encode_all
from .classifier import Block, conv, normed, to_images
from .clips import ClipRecipe, Clips, of_frames
from .trainer import Plan, device, train

PLAN = Plan(steps=3000, batch=32, rate=2e-3, ema=0.99)
HELD_OUT = ClipRecipe(seed=5, count=320)
NOISE = 0.3  # most of it that is added to latents of spread 1: a sampled clip is never quite clean
STAYS, NO_PAN = "stays", "none"
ANSWERS = {"action": world.CLIP_ACTIONS, "path": ("left", STAYS, "right"), "pan": (NO_PAN, *world.PANS)}
TRAVELS = ("stepping", "walking", "leaping")


class VideoClassifier(nn.Module):
    """Latents [B, T, 12, 16, 16] -> {question: logits over `ANSWERS`}."""

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
        self.heads = nn.ModuleDict({name: nn.Linear(2 * deep, len(values)) for name, values in ANSWERS.items()})

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        steps = latents.diff(dim=1, prepend=latents[:, :1])
        frames = self.frames(torch.cat([latents, steps], 2).flatten(0, 1))
        times = self.time(frames.unflatten(0, latents.shape[:2]).mT)
        found = torch.cat([times.mean(2), times.amax(2)], 1)
        return {name: head(found) for name, head in self.heads.items()}

    @torch.no_grad()
    def answer(self, autoencoder: Autoencoder, clips: np.ndarray) -> dict[str, list[str]]:
        """{question: the word for each clip} of uint8 [clips, T, 128, 128, 3]."""
        latents = of_frames(encode_all, autoencoder, clips)
        words = {name: [] for name in ANSWERS}
        for some in latents.split(16):
            for name, logits in self(some.to(device()).float()).items():
                words[name] += [ANSWERS[name][choice] for choice in logits.argmax(1).tolist()]
        return words


def truth(clip: Clip) -> dict[str, str]:
    """The right answers for a clip of one hero."""
    action = clip.figures[0].action
    kind, _, way = action.partition(" ")
    return {"action": action, "path": way if kind in TRAVELS else STAYS, "pan": clip.pan or NO_PAN}


def train_video_reader(folder: Path, clips: Clips, plan: Plan = PLAN) -> VideoClassifier:
    """The trained reader."""
    torch.manual_seed(plan.seed)
    reader = VideoClassifier().to(device())
    rows = []
    for index in range(len(clips)):
        right = truth(clips.truth(index)[0])
        rows.append([values.index(right[name]) for name, values in ANSWERS.items()])
    answers = torch.tensor(rows)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(clips), (plan.batch,), generator=generator)
        latents = clips.latents[picks].float()
        strength = NOISE * torch.rand(plan.batch, 1, 1, 1, 1, generator=generator)
        latents = latents + strength * torch.randn(latents.shape, generator=generator)
        found = reader(latents.to(device()))
        right = answers[picks].to(device())
        losses = [F.cross_entropy(logits.float(), right[:, i]) for i, logits in enumerate(found.values())]
        hits = (found["action"].argmax(1) == right[:, 0]).float().mean()
        return torch.stack(losses).sum(), {"right": hits.item()}

    train("video_classifier", nn.ModuleDict({"reader": reader}), loss, plan, folder)
    return reader


@torch.no_grad()
def measure(reader: VideoClassifier, autoencoder: Autoencoder, clips: Clips) -> dict[str, float]:
    """Share of right answers on clips as the autoencoder gives them back."""
    shape = clips.latents.shape[:2]
    parts = [to_images(autoencoder.decode(part.float().to(device()))) for part in clips.latents.flatten(0, 1).split(64)]
    pictures = np.concatenate(parts)
    words = reader.answer(autoencoder, pictures.reshape(*shape, *pictures.shape[1:]))
    right = [truth(clips.truth(index)[0]) for index in range(len(clips))]
    figures = {
        name: float(np.mean([one[name] == word for one, word in zip(right, words[name], strict=True)]))
        for name in ANSWERS
    }
    gentle = [one["action"] in world.GENTLE_ACTIONS for one in right]
    pairs = zip(gentle, right, words["action"], strict=True)
    figures["gentle"] = float(np.mean([one["action"] == word for counts, one, word in pairs if counts]))
    return figures
