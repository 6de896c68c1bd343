"""What the parts that read images begin with. In the papers they begin with nothing to say, and have hundreds of
thousands of steps to find it out; here they have hundreds or two thousand, so they are helped to a start.

The first tokens of an image learn, in half a minute, to say what a caption says of it: how the hero looks, and for the
adapters of single frames where it is, between the words that the picture model knows.

The picture model's queries learn, beside all the rest, to tell places. Where all is noise they knew a column of the
picture to within 23 to 33 pixels, and chance is 37, for captions know three places; no key or value of an image can say
more exactly where a hero is to stand than a query can tell. Measured, by true tokens, frame by frame: after 1,600 steps
without this the hero stood 20 pixels off, after 300 steps with it 9.

CAM and APM begin with a guess at what they are for, learned in a minute or written down. Measured: after 150 steps of
CAM the loss is .45, and .54 where it begins as published.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from storyreel.core.networks.streaming.appearance import AppearanceAttention, TokenExpander
from storyreel.core.networks.streaming.frame_encoder import FrameEncoder
from storyreel.core.networks.streaming.injector import Injector
from storyreel.core.storyworld import captions
from storyreel.core.storyworld.attributes import FACINGS, PLACES, Clip
from storyreel.core.storyworld.motion import TURNED, place_at, view_at
from storyreel.core.training import TrainConfig
from torch import Tensor, nn
from torch.nn import functional as F

from .clips import MEMORY, Clips
from .trainer import device, train
from .unet import Captions
from .workspace import Workspace

# Of a whole clip, by tokens.
PHRASES = ({"size", "shape", "color"}, {"hat", "hat color"}, {"scarf color"}, {"scene"})
FRAME_WORDS = TrainConfig(steps=1000, batch_size=64, learning_rate=2e-3, ema=0.98, warmup=50)
ANCHOR_WORDS = TrainConfig(steps=1500, batch_size=256, learning_rate=5e-3, ema=0.99, warmup=50)
SIGHT = TrainConfig(steps=400, batch_size=32, learning_rate=3e-3, ema=0.98, warmup=20)
OPEN = 1.2785  # SiLU of it is 1


def describe(truths: Sequence[Clip], read: Captions) -> tuple[Tensor, Tensor]:
    """What describes clips: the text tower's states of the last words of phrases [phrases, D], and which of
    these are of each clip [clips, len(PHRASES)]."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(captions.caption(clip, named), len(numbers)) for named in PHRASES] for clip in truths]
    return read.last_words(list(numbers)), torch.tensor(rows)


def pretrain_tokens(
    work: Workspace,
    name: str,
    network: nn.Module,
    seen: Tensor,
    description: Callable[[Tensor, Tensor], Tensor],
    config: TrainConfig,
    made_of: str = "",
) -> None:
    """Have the first of the tokens that `network` makes of frames be what describes them.

    seen: [clips, frames, ...]. description(clips, frames): [B, tokens, D] of so many frames. made_of: as of `train`.
    """
    config = work.config(config)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        clips, frames = (torch.randint(count, (config.batch_size,), generator=generator) for count in seen.shape[:2])
        expected = description(clips, frames)
        return error_of(network(seen[clips, frames].to(device()).float())[:, : expected.shape[1]], expected)

    train(name, {"network": network}, loss, config, work.folder, made_of)


def error_of(found: Tensor, expected: Tensor) -> tuple[Tensor, dict]:
    """The error, and its share of what there was to be found."""
    error = F.mse_loss(found.float(), expected)
    return error, {"share": error.item() / expected.square().mean().item()}


class FrameDescriptions:
    """What describes every frame of clips, as states of the text tower: looks and scene of the whole clip, and
    where in the frame the hero is and which way it looks."""

    def __init__(self, truths: Sequence[Clip], frames: int, read: Captions):
        self.table, self.rows = describe(truths, read)
        poses = [[place_at(clip, 0, time) for time in range(frames)] for clip in truths]
        views = torch.tensor([[view_at(clip, time) for time in range(frames)] for clip in truths])
        x = torch.tensor([[x for _, x, _ in clip] for clip in poses]) - views
        yaw = torch.tensor([[pose.yaw for pose, _, _ in clip] for clip in poses]) / TURNED
        self.turns = (
            (_between(x, PLACES), _phrases(captions.PLACES, read)),
            (_between(yaw, FACINGS), _phrases(captions.FACINGS, read)),
        )

    def of(self, clips: Tensor, frames: Tensor) -> Tensor:
        """[B, 6, D] of so many frames."""
        turned = [shares[clips, frames].to(states) @ states for shares, states in self.turns]
        return torch.cat([self.table[self.rows[clips]], torch.stack(turned, 1)], 1)


def _between(values: Tensor, words: dict[str, float]) -> Tensor:
    """Shares of words [..., words] that stand for values in this order: of the two that a value lies between."""
    gaps = [((values - low) / (high - low)).clamp(0, 1) for low, high in pairwise(words.values())]
    beyond = torch.stack([torch.ones_like(values), *gaps, torch.zeros_like(values)], -1)
    return beyond[..., :-1] - beyond[..., 1:]


def _phrases(phrases: dict[str, str], read: Captions) -> Tensor:
    return read.last_words([f"a hero {phrase}" for phrase in phrases.values()])


class Places(nn.Module):
    """Asks the queries of a UNet's cross-attention layers where they are."""

    def __init__(self, layers: Sequence[str], width: int):
        super().__init__()
        self.asked = nn.ModuleDict({number: nn.Linear(width, 2) for number in layers})
        self.errors: list[Tensor] = []

    def ask(self, number: str, q: Tensor) -> None:
        """q: [B, places, width], the rows of a square one by one."""
        side = int(q.shape[1] ** 0.5)
        line = torch.linspace(-1, 1, side, device=q.device)
        truth = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
        self.errors.append(F.mse_loss(self.asked[number](q).float(), truth.expand(len(q), -1, -1)))

    def answer(self) -> Tensor:
        """The mean squared error of all that were asked since, of halves of the picture's side."""
        errors, self.errors = self.errors, []
        return torch.stack(errors).mean()


def attend_to_similar(injector: Injector) -> None:
    """Make an untrained injector of CAM the identity: each place attends to similar ones of the frames before and
    takes their values unchanged."""
    attention = injector.attention
    for layer in (injector.proj_in, attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
        nn.init.eye_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def see_latents(
    work: Workspace, name: str, eyes: FrameEncoder, first: nn.Module, clips: Clips, starts: Tensor, spread: float
) -> None:
    """Have CAM's frame encoder see in pixels what the base's first layer sees in their latents. starts: where the chunk
    of each clip begins."""
    config = work.config(SIGHT)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(clips), (config.batch_size,), generator=generator)
        frames = torch.randint(MEMORY, (config.batch_size,), generator=generator)
        pixels = clips["before"][picks, frames].to(device()).movedim(-1, 1) / 127.5 - 1
        with torch.no_grad():
            expected = first(clips.latents[picks, starts[picks] + frames].to(device()).float() / spread).float()
        return error_of(eyes(pixels.contiguous()), expected)

    train(f"{name}_sight", {"eyes": eyes}, loss, config, work.folder)


def pretrain_appearance(
    work: Workspace,
    name: str,
    expander: TokenExpander,
    layers: Sequence[AppearanceAttention],
    clips: Clips,
    shown: Sequence[Clip],
    read: Captions,
) -> None:
    """Have APM's tokens say of an anchor what a caption would, and put them behind the caption's words, in the place of
    paddings. shown: what each clip shows."""
    table, rows = describe(shown, read)
    pretrain_tokens(
        work, f"{name}_words", expander, clips["anchors"], lambda picks, _: table[rows[picks]], ANCHOR_WORDS
    )
    scale = (table[rows] - read([""])[0, -1]).std(-1).mean()  # of what is put in the place of a padding
    for layer in layers:
        append_text_tokens(layer, scale)


@torch.no_grad()
def append_text_tokens(layer: AppearanceAttention, scale: Tensor) -> None:
    """Mix the image's tokens into the last of the text's, from which these paddings are taken away. scale: standard
    deviation of the features of what is put there."""
    text, whole = layer.conv.weight.shape[:2]
    count, middle = whole - text, layer.conv.weight.shape[2] // 2
    places = range(text - count, text)
    for parameter in layer.conv.parameters():
        nn.init.zeros_(parameter)
    layer.conv.weight[places, range(text, whole), middle] = 1
    layer.conv.weight[places, places, middle] = -1
    nn.init.constant_(layer.conv_ln.weight, scale.item())
    nn.init.constant_(layer.alpha, OPEN)
