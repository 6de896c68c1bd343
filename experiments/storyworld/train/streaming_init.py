"""Where CAM and APM begin. In the paper they begin with no say, and have hundreds of thousands of steps to find out
what is worth one. Here they have hundreds, so both begin with a guess at what they are for, learned in a minute or
written down. Measured: after 150 steps of CAM the loss is .45, and .54 where it begins as published.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from storyreel.core.networks.streaming.appearance import AppearanceAttention, TokenExpander
from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
from storyreel.core.networks.streaming.injector import Injector
from storyreel.core.storyworld.attributes import Clip
from torch import Tensor, nn

from .init import as_short_as, learn_to_say, missed, said_of
from .long_clips import MEMORY, LongClips
from .trainer import Plan, device, train
from .unet import Captions

SIGHT = Plan(steps=400, batch=32, rate=3e-3, ema=0.98, warmup=20)
WORDS = Plan(steps=1500, batch=256, rate=5e-3, ema=0.99, warmup=50)
OPEN = 1.2785  # SiLU of it is 1


def look_at_what_is_alike(injector: Injector) -> None:
    """An injector of CAM that has learned nothing else: each place looks at those before that are like it, and takes
    them as they are."""
    looks = injector.attention
    for layer in (injector.proj_in, looks.to_q, looks.to_k, looks.to_v, looks.to_out[0]):
        nn.init.eye_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def see_latents(
    eyes: FrameEncoder,
    first: nn.Module,
    clips: LongClips,
    starts: Tensor,
    spread: float,
    plan: Plan,
    folder: Path,
    name: str,
) -> None:
    """Have CAM's frame encoder see in pixels what the base's first layer sees in their latents. starts: where the chunk
    of each clip begins."""

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(clips), (SIGHT.batch,), generator=generator)
        frames = torch.randint(MEMORY, (SIGHT.batch,), generator=generator)
        pixels = clips.before[picks, frames].to(device()).movedim(-1, 1) / 127.5 - 1
        with torch.no_grad():
            expected = first(clips.latents[picks, starts[picks] + frames].to(device()).float() / spread).float()
        return missed(eyes(pixels.contiguous()), expected)

    train(f"{name}_sight", nn.ModuleDict({"eyes": eyes}), loss, as_short_as(plan, SIGHT), folder)


def say_looks(
    expander: TokenExpander,
    looks: Sequence[AppearanceAttention],
    clips: LongClips,
    shown: Sequence[Clip],
    read: Captions,
    plan: Plan,
    folder: Path,
    name: str,
) -> None:
    """Have APM's tokens say of an anchor what a caption would, and put them behind the caption's words, in the place of
    paddings. shown: what each clip shows."""
    table, rows = said_of(shown, read)
    learn_to_say(f"{name}_words", expander, clips.anchors, lambda picks, _: table[rows[picks]], WORDS, plan, folder)
    scale = (table[rows] - read([""])[0, -1]).std(-1).mean()  # of what is put in the place of a padding
    for look in looks:
        put_behind_the_words(look, scale)


@torch.no_grad()
def put_behind_the_words(look: AppearanceAttention, scale: Tensor) -> None:
    """Mix the image's tokens into the last of the text's, from which these paddings are taken away. scale: standard
    deviation of the features of what is put there."""
    text, whole = look.conv.weight.shape[:2]
    count, middle = whole - text, look.conv.weight.shape[2] // 2
    places = range(text - count, text)
    for parameter in look.conv.parameters():
        nn.init.zeros_(parameter)
    look.conv.weight[places, range(text, whole), middle] = 1
    look.conv.weight[places, places, middle] = -1
    nn.init.constant_(look.conv_ln.weight, scale.item())
    nn.init.constant_(look.alpha, OPEN)
