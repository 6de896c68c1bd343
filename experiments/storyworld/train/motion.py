"""Stages 9 and 10: an IP-Adapter-Plus (arXiv 2308.06721) and AnimateDiff's motion modules (arXiv 2307.04725) for the
picture model, which stays as it is.

At first single frames of clips are drawn by what the image tower sees in them, through an IP-Adapter and a domain
adapter, a LoRA: that makes the tokens in which motion is predicted. Then both stay as they are, too, and motion modules
learn what single frames cannot tell. In a share of the batches the adapter's layers do not look, and the tokens stand
behind the text, as in StoryDiffusion (arXiv 2405.01434, equation 8): both ways of decoding are learnt.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from random import Random

import torch
from storyreel.core.diffusion.schedule import alpha_bars
from storyreel.core.networks.animatediff.config import MotionConfig
from storyreel.core.networks.dynamicrafter.config import ResamplerConfig
from storyreel.core.networks.dynamicrafter.resampler import Resampler
from storyreel.core.networks.ip_adapter.layers import ImageLayers
from storyreel.core.storyworld import captions, world
from storyreel.core.storyworld.attributes import Clip
from storyreel.core.training import TrainConfig
from torch import Tensor, nn

from .clips import MotionRecipe, draw_clips, place_of
from .domain_adapter import DomainAdapter, merge
from .init import FRAME_WORDS, FrameDescriptions, Places, pretrain_tokens
from .layers import OPS, attend, silence
from .tokenizer import with_strangers
from .towers import WIDTH
from .trainer import device
from .unet import NETWORK, TRAINING_OPTIONS, Captions, build, noised
from .video import error_parts, together
from .workspace import Workspace

ADAPTER_CONFIG = TrainConfig(steps=1800, batch_size=48, learning_rate=1e-3, ema=0.995, warmup=100)
MODULES_CONFIG = TrainConfig(steps=1200, batch_size=4, learning_rate=8e-4, ema=0.995, warmup=100)
DATA = MotionRecipe(seed=6000, count=2000, wide=0.25)
TOKENS = 16
PROJECTION = ResamplerConfig(
    dim=WIDTH, depth=2, heads=2, dim_head=64, queries=TOKENS, embedding_dim=WIDTH, output_dim=WIDTH
)
CHANNELS = NETWORK["model_channels"]
MODULES = MotionConfig(
    down=((CHANNELS,), (CHANNELS,)), up=((CHANNELS,) * 2, (CHANNELS,) * 2), middle=CHANNELS, frames=32
)
IN_CONTEXT = 0.25  # share of batches
NOISIER = 3.0  # where little noise is left, latents show what tokens could say
# The schedule leaves 7 % of the latents at its last timestep. Of 16 frames together that is enough to see where the
# hero is: modules would learn to look there, and find it in the noise that sampling begins with.
BLANK = 0.35
# around(transformer_options): what a forward pass of the UNet under these options runs in.
Around = Callable[[dict], AbstractContextManager]
DROP_TEXT, DROP_IMAGE, DROP_BOTH = 0.3, 0.05, 0.1  # the motion is to come from the tokens: words would give it away


class Adapter(nn.Module):
    """The image projection, and the layers through which the UNet looks at its tokens, under published names."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        from storyreel.host.motion.ip_adapter import cross_attention_layers

        layers = cross_attention_layers(unet)
        self.image_proj = Resampler(PROJECTION, OPS)
        self.ip_adapter = ImageLayers(dict.fromkeys(layers, (WIDTH, CHANNELS)), OPS)
        for number, layer in layers.items():  # as IP-Adapter began: an image is read as a text is
            self.ip_adapter[number].to_k_ip.weight.data.copy_(layer.layer.to_k.weight)
            self.ip_adapter[number].to_v_ip.weight.data.copy_(layer.layer.to_v.weight)
        self.blocks = {layer.block: number for number, layer in layers.items()}

    def looking_at(self, tokens: Tensor | None, places: Places | None = None) -> dict[tuple[str, int], Callable]:
        """For the UNet's cross-attention layers: frames look at their tokens [frames, TOKENS, WIDTH], too. places: what
        their queries are asked by."""

        def look(number: str, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
            heads = options["n_heads"]
            if places is not None:
                places.ask(number, q)
            read = attend(q, k, v, heads)
            return read if tokens is None else read + self.ip_adapter[number](q, tokens, heads)

        return {block: partial(look, number) for block, number in self.blocks.items()}


class Lessons:
    """Clips that the picture model denoises, by their captions and their tokens."""

    def __init__(self, work: Workspace):
        self.unet, self.spread = build(), work.latents["spread"]
        self.unet.load_state_dict(work.weights("unet"))
        self.unet.requires_grad_(False).eval().to(device())
        self.clips = draw_clips(work.recipe(DATA), work.autoencoder, work.towers.vision, work.data)
        self.truths = [clip for clip, _ in self.clips.truths()]
        self.read = Captions(work.towers, work.vocabulary)
        self.alphas = alpha_bars(zero_snr=False).float()
        self.nothing = nothing_seen(work.towers.vision)
        recipe = self.clips.recipe
        settings = *recipe.identity, NOISIER, BLANK, IN_CONTEXT, DROP_TEXT, DROP_IMAGE, DROP_BOTH
        self.name = place_of("lessons", recipe, settings, work.autoencoder, work.towers.vision, self.unet)

    def loss(
        self,
        count: int,
        frames: int,
        generator: torch.Generator,
        adapter: Adapter,
        around: Around,
        places: Places | None = None,
    ) -> tuple[Tensor, dict]:
        """(what to minimise, its parts) of so many frames of each of `count` clips. around: a pass of the UNet. places:
        what the UNet's queries are asked by."""
        picks = torch.randint(len(self.clips), (count,), generator=generator)
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        prompts = [sample_prompt(rng, self.truths[pick]) for pick in picks.tolist()]
        first = torch.tensor([rng.randint(0, self.clips.recipe.frames - frames) for _ in prompts])
        at = picks[:, None], first[:, None] + torch.arange(frames)
        seen = self.clips["seen"][at].float().to(device())
        seen[torch.tensor([not shown for _, shown in prompts])] = self.nothing
        clean = self.clips.latents[at].float() / self.spread
        noisy, times, target = (part.to(device()) for part in noised(clean, self.alphas, generator, NOISIER, BLANK))

        context = self.read([text for text, _ in prompts]).repeat_interleave(frames, 0)
        tokens = adapter.image_proj(seen.flatten(0, 1)).to(context.dtype)
        options = TRAINING_OPTIONS | {"cond_or_uncond": [0] * count}
        in_context = rng.random() < IN_CONTEXT
        if in_context:
            context = torch.cat([context, tokens], 1)
        options |= {"patches_replace": {"attn2": adapter.looking_at(None if in_context else tokens, places)}}
        rows = noisy.flatten(0, 1), times.repeat_interleave(frames)
        with around(options):
            predicted = self.unet(*rows, context=context, transformer_options=options)
        error = (predicted.view_as(target).float() - target).square().mean(2)
        parts = error_parts(error, self.clips.motion[at])
        if places is not None:
            parts["places"] = places.answer()
        return together(parts)


def train_adapter(work: Workspace) -> None:
    """Both adapters, trained on single frames."""
    config, lessons = work.config(ADAPTER_CONFIG), Lessons(work)
    torch.manual_seed(config.seed)
    adapter = Adapter(lessons.unet).to(device())
    descriptions = FrameDescriptions(lessons.truths, lessons.clips.recipe.frames, lessons.read)
    seen = lessons.clips["seen"]
    pretrain_tokens(work, "ip_adapter_words", adapter.image_proj, seen, descriptions.of, FRAME_WORDS, lessons.name)
    domain = DomainAdapter(lessons.unet).to(device())
    domain.put_on(lessons.unet)
    places = Places(list(adapter.ip_adapter), CHANNELS).to(device())

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        return lessons.loss(config.batch_size, 1, generator, adapter, nullcontext, places)

    modules = {"adapter": adapter, "domain": domain, "places": places}
    work.train("ip_adapter", modules, loss, config, lessons.name)
    work.save("ip_adapter", adapter.state_dict(), config, lessons.clips.recipe)
    work.save("domain_adapter", domain.weights(), config, lessons.clips.recipe)


def train_modules(work: Workspace) -> None:
    """The motion modules, trained on whole clips; the adapters for single frames stay as they are."""
    from storyreel.host.motion.animatediff import HostMotionModules, inserted_modules

    config, lessons = work.config(MODULES_CONFIG), Lessons(work)
    merge(lessons.unet, work.weights("domain_adapter"))
    adapter = Adapter(lessons.unet)
    adapter.load_state_dict(work.weights("ip_adapter"))
    adapter.requires_grad_(False).eval().to(device())
    torch.manual_seed(config.seed)
    modules = HostMotionModules(MODULES, OPS)
    for module in modules.placed.values():  # at first a frame is as it was
        silence(module.temporal_transformer.proj_out)
    modules.to(device())
    frames = lessons.clips.recipe.frames

    def loss(generator: torch.Generator) -> tuple[Tensor, dict]:
        around = partial(inserted_modules, lessons.unet, modules, config.batch_size * frames)
        return lessons.loss(config.batch_size, frames, generator, adapter, around)

    made_of = place_of("modules", lessons.clips.recipe, (lessons.name,), adapter, lessons.unet)
    work.train("motion_module", {"motion": modules}, loss, config, made_of)
    work.save("motion_module", modules.state_dict(), config, lessons.clips.recipe)


def sample_prompt(rng: Random, clip: Clip) -> tuple[str, bool]:
    """(the caption of a training clip, whether its frames are seen), by chance. What the hero does and where it is are
    for the tokens to say: of a caption that says it, they would not learn it."""
    named = captions.choose_named(rng, clip) & {"scene", *captions.CHARACTER}
    text = with_strangers(rng, captions.caption(clip, named))
    chance = rng.random()
    if chance < DROP_BOTH:
        return "", False
    chance -= DROP_BOTH
    return "" if chance < DROP_TEXT else text, not DROP_TEXT <= chance < DROP_TEXT + DROP_IMAGE


@torch.no_grad()
def nothing_seen(vision: nn.Module) -> Tensor:
    """[N, WIDTH]: what the image tower makes of zeros, which is what a negative prompt sees."""
    zeros = torch.zeros(1, 3, world.SIZE, world.SIZE, device=device())
    return vision(pixel_values=zeros, intermediate_output=-2)[1][0].float()
