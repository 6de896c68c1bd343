"""The tiny DynamiCrafter in the stock KSampler."""

import torch

FRAMES, SIZE = 16, (4, 6)


def conditioning(seed: int, frames: int = FRAMES, size=SIZE, mode: str = "animate") -> list:
    """A CONDITIONING for the tiny model."""
    from storyreel.host.dynamicrafter import model as keys

    generator = torch.Generator().manual_seed(seed)
    text, tokens = torch.randn(1, 77, 64, generator=generator), torch.randn(1, 5, 96, generator=generator)
    latents = torch.randn(frames, 4, *size, generator=torch.Generator().manual_seed(9))
    return [[text, {keys.VISION_TOKENS: tokens, keys.CONCAT_LATENTS: latents, keys.FS: None, keys.MODE: mode}]]


def empty(frames: int = FRAMES, size=SIZE) -> dict:
    return {"samples": torch.zeros(frames, 4, *size)}


@torch.no_grad()
def sample(model, frames=FRAMES, *, steps=2, cfg=5.0, sampler="euler", scheduler="normal", seed=1, size=SIZE, **given):
    """The latents from the stock KSampler."""
    import nodes

    conds = conditioning(1, frames, size, **given), conditioning(2, frames, size, **given)
    return nodes.common_ksampler(model, seed, steps, cfg, sampler, scheduler, *conds, empty(frames, size))[0]["samples"]


@torch.no_grad()
def by_euler(model, noise: torch.Tensor, sigmas: torch.Tensor, positive: list, negative: list) -> torch.Tensor:
    """The host's sample from this noise with cfg 5."""
    import comfy.samplers

    given = 5.0, model.load_device, comfy.samplers.sampler_object("euler"), sigmas, model.model_options
    how = dict(latent_image=torch.zeros_like(noise), disable_pbar=True, seed=0)
    return comfy.samplers.sample(model, noise.clone(), positive, negative, *given, **how)
