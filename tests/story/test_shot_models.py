"""Animate Story on each family of video models, which are tiny and of the host's own classes."""

import pytest
import torch
from harness import video_models


@pytest.mark.parametrize("name", video_models.FAMILIES)
@torch.no_grad()
def test_a_tiny_model_samples_latents_of_its_vae(host, name):
    import nodes

    family, vae, model = video_models.FAMILIES[name], video_models.FAMILIES[name].vae(), video_models.build(name)
    frames, side = 2 * family.step + 1, 2 * family.multiple
    latent = vae.encode(torch.rand(frames, side, side, 3, generator=torch.Generator().manual_seed(0)))
    prompts = video_models.prompt(name, 1, 1), video_models.prompt(name, 1, 2)
    empty = {"samples": torch.zeros_like(latent)}
    (sampled,) = nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *prompts, empty)
    decoded = vae.decode(sampled["samples"])[0]
    assert decoded.shape == (frames, side, side, 3) and latent.shape[2] == 3 and decoded.std() > 0.01
