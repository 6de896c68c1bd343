"""Stages 6 to 8: StreamingT2V in small (arXiv 2403.14773), on latents of stage 1 and the towers of stage 2.

In the paper's order. base: ModelScope's text-to-video UNet, which begins with all that the picture model knows.
cam: the base stays as it is, CAM begins with a copy of its encoder, and learns to go on from 8 frames that it is shown.
apm: both stay, and the anchor's tokens find their way into the text. (The paper's last stage trains CAM on; here
nothing but APM learns, so that what it adds can be measured.)
CAM and APM have few steps and do not begin from nothing, see `streaming_starts`.

The noise schedule is ModelScope's, which is Stable Diffusion's. ModelScope predicts noise; this predicts velocity, as
the picture model does, so that it can begin with it; the file says so to the loader.

All levels are as wide as the picture model's. Transformers are on the upper of its two levels and in the middle, as
the published network has none on its lowest: with them on both, base and CAM would be 19.4 MB in half precision, and
16 are the limit. Without those of the lower level, the picture model's loss goes from .173 to .209, without those of
the upper one to .609.
"""

from dataclasses import dataclass, replace
from random import Random

import torch
from storyreel.core.diffusion.schedule import alpha_bars
from storyreel.core.networks.modelscope.config import UNetConfig
from storyreel.core.networks.storyworld import LATENT_CHANNELS
from storyreel.core.networks.streaming.appearance import AppearanceAttention, TokenExpander
from storyreel.core.networks.streaming.config import StreamingConfig
from storyreel.core.networks.streaming.model import StreamingT2V
from storyreel.core.storyworld import captions
from storyreel.core.storyworld.attributes import Clip
from storyreel.core.training import TrainConfig
from torch import Tensor, nn

from . import export, init, layers
from .clips import ANCHORS, LENGTH, MEMORY, LongRecipe, draw_clips
from .encoding import EMBEDS, vision_output
from .layers import OPS
from .streaming_keys import published
from .tokenizer import with_strangers
from .towers import WIDTH
from .trainer import device
from .unet import Captions, noised
from .video import NOISIER, error_parts, gray_picture, together
from .workspace import Workspace

BASE, CAM, APM = "base", "cam", "apm"
# Measured: 61 minutes of the first on one thread beside another training; 17 and 7 of the others on two.
CONFIGS = {
    BASE: TrainConfig(steps=1200, batch_size=6, learning_rate=8e-4, ema=0.998, warmup=100),
    CAM: TrainConfig(steps=750, batch_size=6, learning_rate=6e-4, ema=0.998, warmup=100),
    APM: TrainConfig(steps=350, batch_size=6, learning_rate=6e-4, ema=0.99, warmup=50),
}
DATA = LongRecipe(seed=6000, count=3000)
UNET = UNetConfig(
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    model_channels=96,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention=(True, False),
    head_channels=32,
    init_head_channels=8,
    context_dim=WIDTH,
)
SIZES = StreamingConfig(UNET, frame_widths=(8, 16, 24, 48), image_tokens=4)
EXPANDER = {"dim": WIDTH, "inner": 64, "count": SIZES.image_tokens}
MOVED = {  # of the picture UNet's layers
    "input_blocks.2.0.": "input_blocks.2.",
    "middle_block.2.": "middle_block.3.",
    "output_blocks.1.2.": "output_blocks.1.1.",
    "input_blocks.3.1.": None,
    "output_blocks.0.1.": None,
    "output_blocks.1.1.": None,
}
DROP_TEXT, DROP_ANCHOR, DROP_BOTH = 0.06, 0.06, 0.06
ALONE = 0.5  # share of APM's batches without CAM, which shows all looks there are and leaves nothing to learn
OWN = {CAM: ("injectors.", "extractor."), APM: (".attn2.alpha", ".attn2.conv.", ".attn2.conv_ln.", "expander.")}


class StreamingModel(nn.Module):
    """Base, CAM and APM, and APM's token expander beside them."""

    def __init__(self):
        super().__init__()
        self.network = StreamingT2V(SIZES, OPS)
        self.expander = TokenExpander(**EXPANDER, ops=OPS)

    def forward(
        self, noisy: Tensor, times: Tensor, text: Tensor, anchor: Tensor | None, before: Tensor | None
    ) -> Tensor:
        """The velocity of chunks, [B, T, channels, h, w].

        noisy: [B, T, channels, h, w]. times: [B]. text: [B, 77, WIDTH]. anchor: [B, WIDTH], None without APM.
        before: [B, MEMORY, 3, 8 h, 8 w] from -1 to 1, None without CAM.
        """
        image = None if anchor is None else self.expander(anchor).to(text.dtype)
        seen = None if before is None else self.network.encode_frames(before)
        return self.network(noisy.transpose(1, 2), times, text, image, seen).transpose(1, 2)

    def weights_of(self, part: str) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.state_dict().items() if part_of(name) == part}

    def published(self) -> dict[str, Tensor]:
        """All weights under the names of a published file."""
        return published(self.network.state_dict(), self.expander.state_dict(), UNET.num_res_blocks)


def part_of(name: str) -> str:
    """Which stage trains the weight of this name. CAM's copy of the encoder knows nothing of APM."""
    return next((part for part, own in OWN.items() if any(piece in name for piece in own)), BASE)


def begin(model: StreamingModel, part: str, pictures: dict[str, Tensor]) -> None:
    """Bring the part that is to be trained to where it begins: what it adds to the parts before it is nothing."""
    network = model.network
    if part == BASE:
        layers.start_from(network, pictures, MOVED)
    elif part == CAM:
        base, copy = network.state_dict(), network.extractor.state_dict()
        copied = {name: base[name] for name in copy if not name.startswith("frame_encoder.")}
        network.extractor.load_state_dict(copied, strict=False)
        for injector in network.injectors:
            init.attend_to_similar(injector)
            layers.silence(injector.proj_out)


@dataclass(frozen=True)
class ChunkInputs:
    """What the model gets of one chunk. start: where it begins in the clip. anchor: a row of the clip's `anchors`,
    None for a grey picture's."""

    start: int
    text: str
    anchor: int | None


def sample_inputs(rng: Random, clip: Clip, chunk: int, part: str) -> ChunkInputs:
    """What the model gets of a clip, by chance. chunk: where the one begins whose frames before CAM gets."""
    start = rng.randint(0, DATA.frames - LENGTH) if part == BASE else chunk
    text = with_strangers(rng, captions.caption(clip, captions.choose_named(rng, clip)))
    anchor = rng.randrange(len(ANCHORS))
    chance = rng.random()
    no_text = chance < DROP_TEXT + DROP_BOTH
    no_anchor = DROP_TEXT <= chance < DROP_TEXT + DROP_BOTH + DROP_ANCHOR
    return ChunkInputs(start, "" if no_text else text, None if no_anchor else anchor)


def train_part(part: str, work: Workspace) -> None:
    """The base begins with the picture model, CAM and APM with all parts before. APM leaves the whole model in a file,
    too."""
    whole, config = work.numbered("streaming"), replace(work.config(CONFIGS[part]), seed=work.seed)
    names = {one: f"{whole}_{one}" for one in CONFIGS}
    name, earlier = names[part], list(names.values())[: list(names).index(part)]
    spread, known = work.latents["spread"], work.weights(*(earlier or ["unet"]))
    clips = draw_clips(work.recipe(DATA), work.autoencoder, work.towers.vision, work.data)
    truths = clips.truths()
    gray = vision_output(work.towers.vision, gray_picture(), EMBEDS)[0].float()
    read = Captions(work.towers, work.vocabulary)
    alphas = alpha_bars(zero_snr=False).float()

    torch.manual_seed(config.seed)
    model = StreamingModel().to(device())
    if part != BASE:
        model.load_state_dict(known, strict=False)
    begin(model, part, known)
    network = model.network
    if part == CAM:
        frame_encoder, first = network.extractor.frame_encoder, network.input_blocks[0][0]
        starts = torch.tensor([start for _, _, start in truths])
        init.see_latents(work, name, frame_encoder, first, clips, starts, spread)
    elif part == APM:
        attention = [module for module in network.modules() if isinstance(module, AppearanceAttention)]
        init.pretrain_appearance(work, name, model.expander, attention, clips, [clip for clip, _, _ in truths], read)
    for weight_name, weight in model.named_parameters():
        weight.requires_grad_(part_of(weight_name) == part)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        picks = torch.randint(len(clips), (config.batch_size,), generator=generator).tolist()
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        inputs = [sample_inputs(rng, truths[pick][0], truths[pick][2], part) for pick in picks]
        chunks = [(pick, slice(one.start, one.start + LENGTH)) for pick, one in zip(picks, inputs, strict=True)]
        clean = torch.stack([clips.latents[chunk].float() for chunk in chunks]) / spread
        moved = torch.stack([clips.motion[chunk] for chunk in chunks])
        noisy, times, target = (tensor.to(device()) for tensor in noised(clean, alphas, generator, NOISIER))
        before = anchor = None
        if part == CAM or part == APM and rng.random() >= ALONE:
            before = (clips["before"][picks].to(device()).movedim(-1, 2) / 127.5 - 1).contiguous()
        if part == APM:
            pairs = zip(picks, inputs, strict=True)
            anchors = [
                gray if one.anchor is None else clips["anchors"][pick, one.anchor].float() for pick, one in pairs
            ]
            anchor = torch.stack(anchors).to(device())
        predicted = model(noisy, times, read([one.text for one in inputs]), anchor, before)
        return together(error_parts((predicted.float() - target).square().mean(2), moved))

    work.train(name, {"streaming": model}, loss, config)
    work.save(name, model.weights_of(part), config, clips.recipe)
    if part == APM:
        plans = {one: export.load(work.file(name))[1]["recipe"]["plan"] for one, name in names.items()}
        plan = {f"{one} {setting}": value for one, settings in plans.items() for setting, value in settings.items()}
        work.save(whole, model.published(), plan, clips.recipe, storyreel_streaming=metadata(**work.latents))


def metadata(spread: float, rgb: list[list[float]]) -> dict:
    """What the loader cannot read from shapes."""
    return {
        "use": f"extends a clip of Storyworld at 128 x 128 by chunks of {LENGTH} frames, of which the first {MEMORY} "
        "are those before (CAM), towards one anchor frame (APM)",
        "licence": "Apache-2.0, the pack's own",
        "frames": LENGTH,
        "memory": MEMORY,
        "head_channels": UNET.head_channels,
        "v_prediction": True,
        "latents": {"spread": spread, "rgb": rgb},
    }
