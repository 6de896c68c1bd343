"""Noise of a batch whose images have seeds of their own, and the samplers that would mix them."""

import inspect
from collections.abc import Sequence

import comfy.samplers
import torch
from torch import Tensor

WHOLE_BATCH = frozenset({"dpm_adaptive"})  # chooses its steps by the whole batch
WITHOUT_NOISE = frozenset({"res_multistep", "res_multistep_cfg_pp"})  # take a noise sampler and do not use it


class FrameNoise:
    """A NOISE, as the host's samplers take it: image i starts from what the host draws for a single one of `seeds[i]`.

    seed: of the noise that a sampler draws between its steps, for the batch as a whole.
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = tuple(seeds)
        self.seed = self.seeds[0]

    def generate_noise(self, latent: dict) -> Tensor:
        """[B, ...] for a LATENT of as many samples as there are seeds. Raises ValueError for another number."""
        samples = latent["samples"]
        if len(samples) != len(self.seeds):
            raise ValueError(f"the LATENT has {len(samples)} samples and there are {len(self.seeds)} seeds.")
        rows = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed)
            row = torch.randn(1, *samples.shape[1:], dtype=torch.float32, generator=generator, device="cpu")
            rows.append(row.to(samples.dtype))
        return torch.cat(rows)


def mixes_images(sampler_name: str) -> bool:
    """Whether an image that this sampler of the host makes depends on the others of its batch: it draws noise between
    its steps, or chooses them by the whole batch."""
    function = getattr(comfy.samplers.sampler_object(sampler_name), "sampler_function", None)
    if function is None or sampler_name in WHOLE_BATCH:
        return True
    if sampler_name in WITHOUT_NOISE:
        return False
    return "noise_sampler" in inspect.signature(function).parameters
