"""Stage 3: the picture model, the host's own UNet in small, on latents of stage 1 and the text tower of stage 2.

v-prediction under Stable Diffusion's noise schedule, so that every stock sampler works. Three pictures in ten show
twins and one in twenty triplets: from them the model learns that a second hero takes its looks from the first through
self-attention, which is what Consistent Self-Attention extends from one picture to several.
"""

from dataclasses import replace

import numpy as np
import torch
from storyreel.core.diffusion.schedule import alpha_bars
from storyreel.core.networks.storyworld import LATENT_CHANNELS
from storyreel.core.training import TrainConfig
from torch import Tensor, nn

from .encoding import encode, to_tensor
from .image_batches import ImageBatches, image_recipe, weighted_error
from .layers import attend
from .pictures import draw
from .tokenizer import Vocabulary
from .towers import WIDTH, Towers
from .trainer import device
from .workspace import Workspace

CONFIG = TrainConfig(steps=7500, batch_size=32, learning_rate=1e-3, ema=0.9995, warmup=300, weight_decay=0.01)
NETWORK = {  # of the host's UNetModel
    "image_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 96,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "num_heads": -1,
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": WIDTH,
    "legacy": False,
}


def build() -> nn.Module:
    """The host's UNet, initialised as torch's layers are, with an output of zero."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    class Operations:
        Linear, Conv2d, GroupNorm, LayerNorm = nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm

        @staticmethod
        def conv_nd(dims, *args, **kwargs):
            return nn.Conv2d(*args, **kwargs)

    model = UNetModel(**NETWORK, dtype=torch.float32, operations=Operations)
    nn.init.zeros_(model.out[-1].weight)
    nn.init.zeros_(model.out[-1].bias)
    return model


TRAINING_OPTIONS = {"optimized_attention_override": lambda _, q, k, v, heads, *args, **kwargs: attend(q, k, v, heads)}


class Captions:
    """Captions as the text tower gives them to the UNet: [B, 77, WIDTH] after the last norm."""

    def __init__(self, towers: Towers, vocabulary: Vocabulary):
        self.text, self.vocabulary = towers.text.text_model, vocabulary

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        tokens = self.vocabulary.encode(texts).to(device())
        x = self.text.embeddings.token_embedding(tokens) + self.text.embeddings.position_embedding.weight
        mask = torch.full((tokens.shape[1],) * 2, -torch.inf, device=x.device).triu_(1)
        x, _ = self.text.encoder(x, mask=mask.to(x.dtype))
        return self.text.final_layer_norm(x)

    def last_words(self, texts: list[str]) -> Tensor:
        """What the tower makes of the last word of each text [B, WIDTH]."""
        ends = (self.vocabulary.encode(texts) == self.vocabulary.end).float().argmax(1)
        return self(texts)[torch.arange(len(texts)), ends - 1].float()


def noised(
    clean: Tensor, alphas: Tensor, generator: torch.Generator, noisier: float = 1.0, blank: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy, times, velocity) of a batch of latents. alphas: alpha_bar of every timestep. times: [B]. noisier: by so
    many times more often at the end of all noise than on average. blank: the share that is at the last timestep and
    shows nothing but noise, as every sampling begins."""
    # One time from each of as many equal parts of the schedule: evener than chance.
    parts = (torch.arange(len(clean)) + torch.rand(len(clean), generator=generator)) / len(clean)
    times = (parts ** (1 / noisier) * len(alphas)).long()
    noise = torch.randn(clean.shape, generator=generator)
    shape = -1, *[1] * (clean.ndim - 1)
    blanks = torch.rand(len(clean), generator=generator) < blank if blank else torch.zeros(len(clean), dtype=torch.bool)
    times[blanks] = len(alphas) - 1
    signal, sigma = (part.sqrt().view(shape) for part in (alphas[times], 1 - alphas[times]))
    noisy = torch.where(blanks.view(shape), noise, signal * clean + sigma * noise)
    return noisy, times, signal * noise - sigma * clean


def train_unet(work: Workspace) -> None:
    config, recipe = replace(work.config(CONFIG), seed=work.seed), image_recipe(work)
    pictures, autoencoder = draw(recipe, work.data), work.autoencoder
    latents = encode(autoencoder, pictures.images)
    spread = latents[:2048].float().std().item()
    latents = latents / spread
    batches = ImageBatches(pictures, latents, Captions(work.towers, work.vocabulary), config.batch_size)
    alphas = alpha_bars(zero_snr=False).float()

    torch.manual_seed(config.seed)
    unet = build().to(device())

    def loss(generator: torch.Generator) -> Tensor:
        clean, context, weight = batches.draw(generator)
        noisy, times, target = (part.to(device()) for part in noised(clean, alphas, generator))
        predicted = unet(noisy, times, context=context, transformer_options=TRAINING_OPTIONS)
        return weighted_error(predicted, target, weight)

    name = work.image_model("unet")
    work.train(name, {"unet": unet}, loss, config)
    previews = preview_factors(autoencoder, pictures.images[:256], spread)
    network = {"unet": NETWORK, "spread": spread, "rgb": previews}
    work.save(name, unet.state_dict(), config, recipe, network=network)


@torch.no_grad()
def preview_factors(autoencoder: nn.Module, images: np.ndarray, spread: float) -> list[list[float]]:
    """Least squares from latents to colors [13, 3], the last row a constant: what the host's quick previews use."""
    images = to_tensor(images)
    latents = (autoencoder.encode(images) / spread).permute(0, 2, 3, 1).flatten(0, 2)
    colors = nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1).flatten(0, 2)
    design = torch.cat([latents, torch.ones(len(latents), 1, device=latents.device)], 1)
    return torch.linalg.lstsq(design.double().cpu(), colors.double().cpu()).solution.tolist()
