"""What image tokens begin with, in the place of nothing: they learn to say of a picture what a caption says of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from storyreel.core.storyworld import captions
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn
from torch.nn import functional as F

from .trainer import Plan, device, train
from .unet import Captions

SAID = ({"size", "shape", "colour"}, {"hat", "hat colour"}, {"scarf colour"}, {"scene"})  # of a whole clip, by tokens


def said_of(truths: Sequence[Clip], read: Captions) -> tuple[Tensor, Tensor]:
    """What there is to say of clips: the text tower's states of the last words of phrases [phrases, D], and which of
    these are of each clip [clips, len(SAID)]."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(captions.caption(clip, named), len(numbers)) for named in SAID] for clip in truths]
    return read.last_words(list(numbers)), torch.tensor(rows)


def learn_to_say(
    name: str,
    network: nn.Module,
    seen: Tensor,
    said: Callable[[Tensor, Tensor], Tensor],
    whole: Plan,
    plan: Plan,
    folder: Path,
    made_of: str = "",
) -> None:
    """Have the first of the tokens that `network` makes of frames say what there is to say of them.

    seen: [clips, frames, ...]. said(clips, frames): [B, tokens, D] of so many frames. whole: how that is learned,
    unless the stage that it is a start of is only tried out by `plan`. made_of: as of `train`.
    """

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
        clips, frames = (torch.randint(count, (whole.batch,), generator=generator) for count in seen.shape[:2])
        expected = said(clips, frames)
        return missed(network(seen[clips, frames].to(device()).float())[:, : expected.shape[1]], expected)

    train(name, nn.ModuleDict({"network": network}), loss, as_short_as(plan, whole), folder, made_of)


def missed(found: Tensor, expected: Tensor) -> tuple[Tensor, dict]:
    """The error, and its share of what there was to be found."""
    error = F.mse_loss(found.float(), expected)
    return error, {"share": error.item() / expected.square().mean().item()}


def as_short_as(plan: Plan, whole: Plan) -> Plan:
    """Of a stage that is only tried out, this is, too."""
    return replace(whole, seed=plan.seed, steps=min(whole.steps, 5 * plan.steps), stop_after=None)
