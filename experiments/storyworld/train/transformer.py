"""The image model as a diffusion transformer: the host's own Flux in small, on the latents and texts of the UNet.

Rectified flow (arXiv 2209.03003), times drawn from a logit-normal distribution (arXiv 2403.03206, section 3.1). Data,
captions and the share of twins are the UNet's, so that both can be compared.
"""

from dataclasses import replace

import torch
from storyreel.core.networks.storyworld import LATENT_CHANNELS
from storyreel.core.training import TrainConfig
from torch import Tensor, nn

from . import muon
from .encoding import encode
from .image_batches import ImageBatches, image_recipe, weighted_error
from .layers import attend_heads
from .pictures import draw
from .towers import WIDTH
from .trainer import device
from .unet import Captions
from .workspace import Workspace

CONFIG = TrainConfig(steps=4800, batch_size=32, learning_rate=1.5e-3, ema=0.9995, warmup=250, weight_decay=0.01)
TEXT_TOKENS = 32  # no caption is longer; the text tower pads to 77
NETWORK = {  # of the host's Flux
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "patch_size": 2,
    "vec_in_dim": None,
    "context_in_dim": WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 6,
    "axes_dim": [8, 12, 12],
    "theta": 100,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}


def build() -> nn.Module:
    """The host's Flux, initialized as torch's layers are, with modulations and an output of zero (arXiv 2212.09748)."""
    from comfy.ldm.flux.model import Flux

    class CopyNorm(nn.LayerNorm):
        """Of a copy: the host adds to a block's input in place, and the gradient needs what the norm saw."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    class Operations:
        Linear, LayerNorm, RMSNorm = nn.Linear, CopyNorm, nn.RMSNorm

    model = Flux(**NETWORK, dtype=torch.float32, operations=Operations)
    silent = [model.final_layer.linear, model.final_layer.adaLN_modulation[-1]]
    silent += [block.modulation.lin for block in model.single_blocks]
    silent += [modulation.lin for block in model.double_blocks for modulation in (block.img_mod, block.txt_mod)]
    for layer in silent:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def inner_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Of the attention and the feed-forward layers of all blocks; modulations are not among them."""
    return [
        weight
        for name, weight in network.named_parameters()
        if "blocks." in name and weight.ndim == 2 and "mod" not in name
    ]


TRAINING_OPTIONS = {"optimized_attention_override": lambda _, *args, **kwargs: attend_heads(*args[:4])}


def noised(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy, times [B] in 0 to 1, velocity) of a batch of latents; 1 is all noise."""
    # One time from each of as many equal parts of the distribution: evener than chance.
    parts = (torch.arange(len(clean)) + torch.rand(len(clean), generator=generator)) / len(clean)
    times = torch.special.ndtri(parts.double().clamp(1e-4, 1 - 1e-4)).float().sigmoid()
    noise = torch.randn(clean.shape, generator=generator)
    share = times.view(-1, 1, 1, 1)
    return (1 - share) * clean + share * noise, times, noise - clean


def train_transformer(work: Workspace) -> None:
    import comfy.model_management

    config, recipe = replace(work.config(CONFIG), seed=work.seed), image_recipe(work)
    pictures, units = draw(recipe, work.data), work.latents
    latents = encode(work.autoencoder, pictures.images) / units["spread"]
    batches = ImageBatches(pictures, latents, Captions(work.towers, work.vocabulary), config.batch_size)

    torch.manual_seed(config.seed)
    network = build().to(device())

    def loss(generator: torch.Generator) -> Tensor:
        clean, text, weight = batches.draw(generator)
        noisy, times, target = (part.to(device()) for part in noised(clean, generator))
        context = text[:, :TEXT_TOKENS]
        predicted = network(noisy, times, context=context, transformer_options=TRAINING_OPTIONS)
        return weighted_error(predicted, target, weight)

    name = work.image_model("transformer")
    comfy.model_management.in_training = True  # the host's fused rotation has no gradient
    try:
        work.train(
            name,
            {"transformer": network},
            loss,
            config,
            made_of="muon",
            build_optimizer=lambda *settings: muon.optimizer_of(inner_matrices(network), *settings),
        )
    finally:
        comfy.model_management.in_training = False
    described = {"transformer": {**NETWORK, "text_tokens": TEXT_TOKENS}, **units}
    work.save(name, network.state_dict(), config, recipe, network=described)
