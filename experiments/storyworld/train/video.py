"""Stage 5: the video model, DynamiCrafter in small (arXiv 2310.12190), on latents of stage 1 and the towers of stage 2.

v-prediction under a noise schedule of zero terminal SNR. One model animates a picture, goes from a start to an end and
back to its start: the latents that are concatenated to its own are the picture's in every frame, or both ends' with
zeros between. Text, image tokens and those latents are each left out in a share of the clips, for guidance and so that
none of them is idle. What moves counts as much as all the rest, however small it is: an eyelid is a cell or two. The
given frames count once more: nothing about them is left open.

Single frames of clips come first, with the inputs of their clips. The paper's training, too, taught a model of pictures
to use image tokens before it came to clips. Looks, places and poses are learned there: a clip's sixteen frames teach
hardly more of them than one does, and layers of time double the cost.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from random import Random

import numpy as np
import torch
from storyreel.core.diffusion.schedule import alpha_bars
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig, UNetConfig
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.dynamicrafter.unet import UNet
from storyreel.core.networks.storyworld import LATENT_CHANNELS
from storyreel.core.storyworld import captions, world
from storyreel.core.storyworld.attributes import Clip
from storyreel.core.storyworld.keeping import keep_still, still_clip
from storyreel.core.training import TrainConfig
from torch import Tensor, nn

from . import layers
from .clips import FPS, ClipRecipe, draw_clips
from .encoding import LAST, vision_output
from .layers import OPS
from .tokenizer import with_strangers
from .towers import WIDTH
from .trainer import device
from .unet import Captions, noised
from .workspace import Workspace

FRAMES_CONFIG = TrainConfig(steps=3300, batch_size=48, learning_rate=1e-3, ema=0.998, warmup=100)
CONFIG = TrainConfig(steps=2500, batch_size=4, learning_rate=6e-4, ema=0.998, warmup=100)
# Words decide where all is noise: there a trained model errs by a quarter more without them, below time 700 not at all.
NOISIER = 4.0
DATA = ClipRecipe(seed=4000, count=6000)
FRAMES = DATA.frames
IMAGE_TOKENS = 4  # of a frame
UNET = UNetConfig(
    in_channels=2 * LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS + 1,  # the last is what stays as the picture is
    model_channels=96,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention=(True, True),
    head_channels=32,
    init_head_channels=8,
    context_dim=WIDTH,
    default_fs=FPS,
    image_tokens=IMAGE_TOKENS,
)
RESAMPLER = ResamplerConfig(
    dim=64,
    depth=1,
    heads=2,
    dim_head=32,
    queries=IMAGE_TOKENS * FRAMES,
    embedding_dim=WIDTH,
    output_dim=WIDTH,
)
MOVED = {"middle_block.2.": "middle_block.3.", "output_blocks.1.2.": "output_blocks.1.3."}  # behind layers of time
# What clips come with, and how often: the picture in every frame, both ends, both ends of a clip that returns, neither.
ANIMATE, INTERPOLATE, LOOP, NO_IMAGE = "animate", "interpolate", "loop", "none"
MODES = {ANIMATE: 0.58, INTERPOLATE: 0.2, LOOP: 0.1, NO_IMAGE: 0.12}
DROP_TEXT, DROP_IMAGE, DROP_BOTH = 0.08, 0.08, 0.06
NAME_CHARACTER = 0.25  # of those with an image; if named more often, the image would be ignored
MOST_MOTION = 32.0  # of 255: a cell that changes more counts no more
LEAST_CELLS = 16.0  # where fewer than so many cells move, they count less
LEAST_NOISE = 0.2  # a velocity says all the less of the clean latents the less noise there is


class VideoModel(nn.Module):
    """The UNet and the image projection, under the names that a published checkpoint gives them."""

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"diffusion_model": UNet(UNET, OPS)})
        self.image_proj_model = Resampler(RESAMPLER, OPS)

    def forward(
        self,
        noisy: Tensor,
        concat: Tensor,
        times: Tensor,
        alphas: Tensor,
        text: Tensor,
        seen: Tensor,
        fs: Tensor,
        only: Tensor | None = None,
    ) -> Tensor:
        """The velocity of clips, [B, T, channels, h, w].

        noisy, concat: [B, T, channels, h, w]. times, fs: [B], and alpha_bar of those times. text: [B, 77, WIDTH]. seen:
        [B, N, WIDTH] of the tower. only: [B], of each clip the one frame that it is about; noisy is of that alone.
        """
        image = self.image_proj_model(seen).to(text.dtype)
        noisy, concat = noisy.transpose(1, 2), concat.transpose(1, 2)
        guess = still_clip(concat)
        if only is not None:
            rows = torch.arange(len(only), device=only.device)
            concat, guess = (clip[rows, :, only].unsqueeze(2) for clip in (concat, guess))
            image = image.unflatten(1, (FRAMES, IMAGE_TOKENS))[rows, only]
        context = torch.cat([text, image], 1)
        predicted = self.model["diffusion_model"](torch.cat([noisy, concat], 1), times, context, fs).float()
        velocity, keep = predicted.tensor_split([LATENT_CHANNELS], dim=1)
        signal, noise = (part.sqrt().view(-1, 1, 1, 1, 1) for part in (alphas, 1 - alphas))
        clean = signal * noisy - noise * velocity
        kept = keep_still(clean, guess, keep)
        return (velocity + (clean - kept) / noise.clamp(min=LEAST_NOISE)).transpose(1, 2)


@torch.no_grad()
def start_from(model: VideoModel, pictures: dict[str, Tensor]) -> None:
    """Give the video UNet all that the picture UNet knows, as DynamiCrafter began with a model of pictures.

    The latents that are concatenated to the noisy ones and the image tokens, which are read as text is, have no effect
    yet.
    """
    unet = model.model["diffusion_model"]
    weights = dict(pictures)
    first = weights["input_blocks.0.0.weight"]
    weights["input_blocks.0.0.weight"] = torch.cat([first, torch.zeros_like(first)], 1)
    for name in [name for name in weights if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]:
        weights[name.replace(".weight", "_ip.weight")] = weights[name]
    for name in [name for name in weights if name.startswith("out.2.")]:  # of what stays it says nothing yet
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name][:1])])
    layers.start_from(unet, weights, MOVED)
    layers.silence(unet.fps_embedding[-1], model.image_proj_model.norm_out)


@dataclass(frozen=True)
class ClipInputs:
    """What the model gets of one clip, and which of the clip's frames it is to make of that."""

    mode: str
    order: tuple[int, ...]
    text: str
    image: int | None  # which of the clip's pictures the image tokens are of


def sample_inputs(rng: Random, clip: Clip) -> ClipInputs:
    """What the model gets of a training clip, by chance."""
    (mode,) = rng.choices(tuple(MODES), tuple(MODES.values()))
    order = tuple(range(FRAMES))
    if mode == LOOP:  # half of the clip, and back again
        order = (*order[: FRAMES // 2], *reversed(order[: FRAMES // 2]))
    named = captions.choose_named(rng, clip)
    if mode != NO_IMAGE and rng.random() >= NAME_CHARACTER:
        named -= set(captions.CHARACTER)
    text = with_strangers(rng, captions.caption(clip, named))
    image = rng.randrange(2)
    chance = rng.random() if mode != NO_IMAGE else 1.0
    if chance < DROP_TEXT + DROP_BOTH:
        text = ""
    if DROP_TEXT <= chance < DROP_TEXT + DROP_BOTH + DROP_IMAGE:
        image = None
    return ClipInputs(mode, order, text, image)


def concat_latents(clean: Tensor, mode: str) -> Tensor:
    """What is concatenated to the noisy latents of a clip [T, channels, h, w]."""
    if mode == ANIMATE:
        return clean[:1].expand_as(clean)
    concat = torch.zeros_like(clean)
    if mode != NO_IMAGE:
        concat[0], concat[-1] = clean[0], clean[-1]
    return concat


def is_given(mode: str) -> Tensor:
    """bool [FRAMES]: the frames that a picture is given of."""
    frames = torch.zeros(FRAMES, dtype=torch.bool)
    frames[{ANIMATE: [0], NO_IMAGE: []}.get(mode, [0, -1])] = True
    return frames


def train_video(work: Workspace) -> None:
    config, frames_config = (replace(work.config(each), seed=work.seed) for each in (CONFIG, FRAMES_CONFIG))
    spread, pictures = work.latents["spread"], work.weights("unet")
    clips = draw_clips(work.recipe(DATA), work.autoencoder, work.towers.vision, work.data)
    truths = clips.truths()
    gray = vision_output(work.towers.vision, gray_picture(), LAST)[0].float()
    read = Captions(work.towers, work.vocabulary)
    alphas = alpha_bars(zero_snr=True).float()

    torch.manual_seed(config.seed)
    model = VideoModel().to(device())
    start_from(model, pictures)

    def loss(batch: int, single: bool, generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(clips), (batch,), generator=generator).tolist()
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        inputs = [sample_inputs(rng, truths[pick][0]) for pick in picks]
        pairs = list(zip(picks, inputs, strict=True))
        clean = torch.stack([clips.latents[pick, one.order].float() for pick, one in pairs]) / spread
        motion = torch.stack([clips.motion[pick, one.order] for pick, one in pairs])
        concat = torch.stack([concat_latents(clip, one.mode) for clip, one in zip(clean, inputs, strict=True)])
        seen = [gray if one.image is None else clips["tokens"][pick, one.image].float() for pick, one in pairs]
        fs = torch.tensor([truths[pick][1] for pick in picks], device=device())
        known = torch.stack([is_given(one.mode) for one in inputs])
        only = None
        if single:
            rows, only = torch.arange(batch), torch.randint(FRAMES, (batch,), generator=generator)
            clean, motion, known = (clip[rows, only].unsqueeze(1) for clip in (clean, motion, known))
            only = only.to(device())
        noisy, times, target = (part.to(device()) for part in noised(clean, alphas, generator, NOISIER))
        predicted = model(
            noisy,
            concat.to(device()),
            times,
            alphas.to(times.device)[times],
            read([one.text for one in inputs]),
            torch.stack(seen).to(device()),
            fs,
            only,
        )
        error = (predicted - target).square().mean(2)
        parts = error_parts(error, motion)
        known = known.to(error)
        given = (known * error.mean((2, 3))).sum(1) / known.sum(1).clamp(min=1)
        return together(parts | {"given": given.mean()})

    name = work.numbered("video")
    with layers.without_time(model):
        frames_loss = partial(loss, frames_config.batch_size, True)
        work.train(f"{name}_frames", {"video": model}, frames_loss, frames_config)
    work.train(name, {"video": model}, partial(loss, config.batch_size, False), config)
    plan = asdict(config)
    plan |= {"before, on single frames": f"{frames_config.steps} x {frames_config.batch_size}"}
    work.save(name, model.state_dict(), plan, clips.recipe, storyreel_dynamicrafter=metadata(**work.latents))


def error_parts(error: Tensor, motion: Tensor) -> dict[str, Tensor]:
    """Means of the errors of clips [B, T, h, w]: everywhere, and where something moves. motion: uint8 [B, T, h, w]."""
    everywhere = error.mean((1, 2, 3))
    weight = (motion.to(error) / MOST_MOTION).clamp(max=1)
    moving = (weight * error).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) + LEAST_CELLS)
    return {"everywhere": everywhere.mean(), "moving": moving.mean()}


def together(parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """What a stage of videos minimises, and each part of it to report."""
    return sum(parts.values()), {name: part.item() for name, part in parts.items()}


def gray_picture() -> np.ndarray:
    """uint8 [1, 128, 128, 3]: the picture of those who are shown none."""
    return np.full((1, world.SIZE, world.SIZE, 3), 128, np.uint8)


def metadata(spread: float, rgb: list[list[float]]) -> dict:
    """What the loader cannot read from shapes."""
    return {
        "name": "storyworld",
        "base_scale": 1.0,
        "default_fs": FPS,
        "interpolates": True,
        "frames": FRAMES,
        "size": [world.SIZE, world.SIZE],
        "image_tokens": IMAGE_TOKENS,
        "dim_head": RESAMPLER.dim_head,
        "head_channels": UNET.head_channels,
        "latents": {"spread": spread, "rgb": rgb},
    }
