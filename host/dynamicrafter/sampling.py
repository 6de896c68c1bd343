"""Sampling as DynamiCrafter was published: DDIM in its own units, guidance by text and image, guidance rescale."""

import math
from collections.abc import Callable
from typing import cast

import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.diffusion import schedule
from ...core.diffusion.ddim import blend_known, ddim_step
from ...core.diffusion.guidance import rescale_guidance
from ...core.diffusion.prediction import epsilon_of_x0
from ...core.rng import generator
from ..common import messages
from .model import GATE, RescaledSampling, parts_of

RESCALE = "DynamiCrafter Guidance Rescale"


def sigmas_of(model: comfy.model_patcher.ModelPatcher, spacing: str, steps: int) -> Tensor:
    """SIGMAS at the published timesteps, 0 at their end. Raises ValueError, see `schedule.timesteps`."""
    table = cast(Tensor, model.get_model_object("model_sampling").sigmas)
    chosen = table[schedule.timesteps(spacing, steps, len(table))]
    return torch.cat([chosen, chosen.new_zeros(1)]).cpu()


class DDIM(comfy.samplers.Sampler):
    """DDIM (arXiv 2010.02502) with eta, exact to its last step, which ends at the first timestep's small noise.

    keep_clean: insert what a noise mask keeps without noise, as DynamiCrafter's own code does.
    noise: (step, like) -> unit normal; by default a function of seed and step alone.
    """

    def __init__(self, eta: float = 0.0, keep_clean: bool = False, noise: Callable | None = None):
        self.eta, self.keep_clean, self.noise = eta, keep_clean, noise
        self.node = messages.current_node()

    @torch.no_grad()  # as the host's samplers
    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        options, seed = extra_args["model_options"], extra_args["seed"]
        if self.keep_clean and denoise_mask is None:
            messages.warn(
                "DDIM Sampler: keep_clean has no effect: the LATENT has no noise mask.",
                self.node,
            )
        units = _Units(model_wrap.inner_model.model_sampling, sigmas)
        draw = self.noise or (lambda step, like: torch.randn(like.shape, generator=generator("ddim", seed, step)))
        first = then = units.at(sigmas[0])
        latent_image = torch.zeros_like(noise) if latent_image is None else latent_image
        x = first.noised(latent_image, noise) if latent_image.any() else noise
        for step in range(len(sigmas) - 1):
            now, then = units.at(sigmas[step]), units.at(sigmas[step + 1])
            if denoise_mask is not None:
                known = latent_image if self.keep_clean else now.noised(latent_image, noise)
                x = blend_known(x, known, 1 - denoise_mask)
            denoised = model_wrap(now.to_k(x), sigmas[step].expand(len(x)), model_options=options, seed=seed)
            x0 = denoised * now.scale
            x = ddim_step(
                x,
                x0,
                epsilon_of_x0(x, x0, now.alpha_bar**0.5, (1 - now.alpha_bar) ** 0.5),
                draw(step, x).to(x) if self.eta else None,
                alpha_bar=now.alpha_bar,
                alpha_bar_next=then.alpha_bar,
                rescale=1.0 if then.last else then.scale / now.scale,
                eta=self.eta,
            )
            if callback is not None:
                callback(step, denoised, x, len(sigmas) - 1)
        return x if then.last else then.to_k(x)  # a further sampler expects the host's units


class _Units:
    """alpha_bar and scale of a model's sigmas, in Python's floats. The end, sigma 0, counts as the model's smallest
    sigma, or as a smaller one of the schedule.

    Raises ValueError for a rectified flow model.
    """

    def __init__(self, sampling, sigmas: Tensor):
        if isinstance(sampling, comfy.model_sampling.CONST):
            raise ValueError(
                "DDIM Sampler: the MODEL is a rectified flow model, which DDIM does not support. Use euler."
            )
        self.sampling = sampling
        self.least = min([float(sampling.sigma_min), *filter(None, sigmas.tolist())])

    def at(self, sigma: Tensor) -> "_Point":
        last = float(sigma) == 0
        sigma = torch.full_like(sigma, self.least) if last else sigma
        if isinstance(self.sampling, RescaledSampling):
            signal, noise, scale = map(float, self.sampling.parts(sigma))
        else:
            noise = float(sigma) / math.sqrt(1 + float(sigma) ** 2)
            signal, scale = noise / float(sigma), 1.0
        return _Point(signal**2, noise / float(sigma), scale, last)


class _Point:
    """One sigma of the schedule. k_to_x: x = k_to_x k, where k is in the host's units."""

    def __init__(self, alpha_bar: float, k_to_x: float, scale: float, last: bool):
        self.alpha_bar, self.k_to_x, self.scale, self.last = alpha_bar, k_to_x, scale, last

    def to_k(self, x: Tensor) -> Tensor:
        return x / self.k_to_x

    def noised(self, latent: Tensor, noise: Tensor) -> Tensor:
        return self.alpha_bar**0.5 * self.scale * latent + (1 - self.alpha_bar) ** 0.5 * noise


def rescaled(
    sampling: RescaledSampling, sigma: Tensor, k: Tensor, guided: Tensor, cond: Tensor, share: float
) -> Tensor:
    """`guided` with the spread of `cond`, both denoised clips [T, ...] of the same k, compared as model outputs.

    Raises ValueError for a model whose sampling another node has replaced.
    """
    if not isinstance(sampling, RescaledSampling):
        raise ValueError(
            f"Guidance cannot be rescaled, because another node replaced the MODEL's schedule by "
            f"{type(sampling).__name__}. Remove that node (for example ModelSamplingDiscrete), or set cfg_rescale to 0."
        )
    of_guided, of_cond = (sampling.output_of(sigma, denoised, k)[None] for denoised in (guided, cond))
    return sampling.calculate_denoised(sigma, rescale_guidance(of_guided, of_cond, share)[0], k)


def patch_rescale(model: comfy.model_patcher.ModelPatcher, share: float) -> comfy.model_patcher.ModelPatcher:
    """A clone whose ordinary guidance is rescaled over the whole clip. Raises ValueError for another kind of model."""
    parts_of(model)
    patched = model.clone()

    def after_guidance(args):
        sampling = args["model"].model_sampling
        return rescaled(sampling, args["sigma"], args["input"], args["denoised"], args["cond_denoised"], share)

    if not share:
        messages.warn("cfg_rescale is 0, so this node has no effect.")
        return patched
    node = messages.current_node()

    def around_sampling(executor, *args, **kwargs):
        if getattr(executor.class_obj, "cfg", None) == 1:
            messages.warn(
                f"{RESCALE}: cfg is 1, so there is no guidance to rescale. Increase cfg in the sampler.", node
            )
        return executor(*args, **kwargs)

    patched.set_model_sampler_post_cfg_function(after_guidance)
    patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, RESCALE)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, RESCALE, around_sampling)
    return patched


def patch_gate(model: comfy.model_patcher.ModelPatcher, outer: float, middle: float):
    """A clone with these strengths of the image tokens. Raises ValueError for another kind of model."""
    parts_of(model)
    patched = model.clone()
    patched.model_options["transformer_options"][GATE] = (outer, middle)
    return patched


class TextImageGuider(comfy.samplers.CFGGuider):
    """Guidance with separate scales for text and image (DynamiCrafter, section 3.3; the formula is that of
    arXiv 2211.09800, equation 3), and its rescale over the whole clip.

    guided = uncond + cfg_image (image - uncond) + cfg_text (cond - image): the first step by the host's own
    `cfg_function`, so that patches on guidance apply. Equal scales are ordinary guidance.
    """

    def set_conds(self, positive, image_only, negative):
        self.inner_set_conds({"positive": positive, "image_only": image_only, "negative": negative})

    def set_scales(self, text: float, image: float, rescale: float):
        self.text, self.image, self.rescale = text, image, rescale
        self.cfg = text  # shown by the host

    def predict_noise(self, x, timestep, model_options, seed=None):
        conds = [self.conds["negative"], self.conds["image_only"], self.conds["positive"]]
        if self.image == 1:
            conds[0] = None
        plain = self.text == self.image  # ordinary guidance: the image-only term cancels out
        if plain:
            conds[1] = None
        uncond, image, cond = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        if plain:
            conds[1], image = conds[2], cond
        guided = comfy.samplers.cfg_function(
            self.inner_model, image, uncond, self.image, x, timestep, model_options, conds[1], conds[0]
        )
        guided = guided + self.text * (cond - image)
        if not self.rescale:
            return guided
        return rescaled(self.inner_model.model_sampling, timestep, x, guided, cond, self.rescale)
