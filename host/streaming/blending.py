"""Randomized blending (StreamingT2V, section 4.3) as the host's context handler, for its stock samplers and for any of
its video models; and the noise levels of the published refinement.
"""

from collections.abc import Callable, Sequence
from typing import cast

import comfy.context_windows as windows
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.diffusion import blending, refinement
from ...core.diffusion.guidance import rescale_guidance
from ..common import messages
from .modelscope import RefinementSampling

NODE, KEY = "Randomized Blending", "storyreel.randomized_blending"
MEMORY_KEY = "ContextWindows_prepare_sampling"  # of the host's own wrapper, which budgets memory for one window
TWO, THREE = 2, 3  # dimensions of a latent: images with frames as the batch, and video


class RandomizedBlending(windows.IndexListContextHandler):
    """Every evaluation of the model denoises overlapping chunks, each of which takes over at a random frame.

    chunk_length, overlap: in latent frames. dim: the latent's dimension of frames.
    cfg: applied here to each chunk, as is cfg_rescale, whose statistics are those of a chunk. The sampler's own then
        changes nothing, because cond and uncond are equal. 0: leave guidance to the sampler.
    draw: (starts, sigma) -> how many of its first frames each chunk leaves to the one before; by default seeded.
    """

    def __init__(
        self,
        chunk_length: int,
        overlap: int,
        dim: int,
        cfg: float = 0.0,
        cfg_rescale: float = 0.0,
        seed: int = 0,
        draw: Callable[[Sequence[int], float], list[int]] | None = None,
    ):
        super().__init__(
            windows.ContextSchedule("randomized_blending", _chunks),
            windows.ContextFuseMethod("randomized_blending", cast(Callable, None)),  # not called: chunks are written
            context_length=chunk_length,
            context_overlap=overlap,
            dim=dim,
        )
        self.causal_window_fix = False  # would add a frame to a chunk; not every host has it as an argument
        self.cfg, self.cfg_rescale = cfg, cfg_rescale
        self.draw = draw or (lambda starts, sigma: blending.draw_offsets(starts, chunk_length, seed, sigma))
        self.offsets: list[int] = []

    def should_use_context(self, model, conds, x_in, timestep, model_options):
        return True  # for a single chunk, too, because of its guidance

    def execute(self, calc_cond_batch, model, conds, x_in, timestep, model_options):
        if _latent_kinds(conds) > 1:
            raise ValueError(f"{NODE}: the LATENT contains audio and video; a LATENT with video only is expected.")
        if self.cfg and len(conds) == 2:
            if self.cfg == 1:
                conds = [conds[0], None]  # uncond is not used
            elif conds[1] is None:
                raise ValueError(
                    f"{NODE}: cfg is {self.cfg:g}, but the guider has no negative. Use a guider with a negative, or "
                    "set cfg to 1."
                )
        elif self.cfg and len(conds) > 2:
            raise ValueError(
                f"{NODE}: the guider uses {len(conds)} conditionings; cfg supports 2. Set cfg to 0 to leave guidance "
                "to the guider."
            )
        return super().execute(calc_cond_batch, model, conds, x_in, timestep, model_options)

    def combine_context_window_results(
        self,
        x_in,
        sub_conds_out,
        sub_conds,
        window,
        window_idx,
        total_windows,
        timestep,
        conds_final,
        counts_final,
        biases_final,
    ):
        if window_idx == 0:
            starts = blending.chunk_starts(x_in.shape[self.dim], self.context_length, self.context_overlap)
            self.offsets = self.draw(starts, float(timestep[0]))
        start, length = window.index_list[0], len(window.index_list)
        chunks = sub_conds_out
        if self.cfg and len(chunks) == 2:
            cond, uncond = chunks
            chunks = [self.guided(x_in.narrow(self.dim, start, length), cond, uncond, timestep)] * 2
        for clip, count, chunk in zip(conds_final, counts_final, chunks, strict=True):
            blending.write_chunk(clip, chunk, start, self.offsets[window_idx], self.dim)
            count.fill_(1.0)  # the host divides by it; frames are not averaged

    def guided(self, x: Tensor, cond: Tensor, uncond: Tensor, timestep: Tensor) -> Tensor:
        """A denoised chunk from cond and uncond. The rescale compares model outputs, not denoised latents."""
        if self.cfg == 1:
            return cond
        guided = uncond + self.cfg * (cond - uncond)
        if not self.cfg_rescale:
            return guided
        # For every model type, the denoised latent is an affine function of the output.
        to_denoised, sigma = self._model.model_sampling.calculate_denoised, timestep[:1].to(x)
        at_zero = to_denoised(sigma, torch.zeros_like(x), x)
        slope = to_denoised(sigma, x.new_ones([1] * x.ndim), x.new_zeros([1] * x.ndim))
        of_guided, of_cond = ((denoised - at_zero) / slope for denoised in (guided, cond))
        if self.dim == 0:
            of_guided, of_cond = of_guided[None], of_cond[None]
        return at_zero + slope * rescale_guidance(of_guided, of_cond, self.cfg_rescale).view_as(x)


def _latent_kinds(conds: Sequence[list[dict] | None]) -> int:
    """How many latents the host packed into one, from the conds of a model of audio and video."""
    noted = (cond.get("model_conds", {}).get("latent_shapes") for entries in conds for cond in entries or ())
    return max((len(shapes.cond) for shapes in noted if shapes is not None), default=1)


def _chunks(frames: int, handler: RandomizedBlending, options: dict) -> list[list[int]]:
    starts = blending.chunk_starts(frames, handler.context_length, handler.context_overlap)
    return [list(range(start, min(start + handler.context_length, frames))) for start in starts]


def patch_blending(
    model: ModelPatcher, chunk_length: int, overlap: int, cfg: float, cfg_rescale: float, seed: int
) -> ModelPatcher:
    """A clone that samples in chunks, see `RandomizedBlending`.

    Raises ValueError for chunks that do not overlap, for cfg_rescale without cfg, and for a model whose latents are
    neither a batch of frames nor have a dimension of time.
    """
    blending.chunk_starts(chunk_length, chunk_length, overlap)
    if cfg_rescale and not cfg:
        raise ValueError(
            f"cfg_rescale is {cfg_rescale:g}, but cfg is 0, which leaves guidance to the sampler. Set cfg, or "
            "set cfg_rescale to 0."
        )
    dimensions = model.model.latent_format.latent_dimensions
    if dimensions not in (TWO, THREE):
        raise ValueError(f"MODEL is a {type(model.model).__name__}; a video model is expected.")
    patched = model.clone()
    node, dim = messages.current_node(), 0 if dimensions == TWO else 2
    options = cast(dict, patched.model_options)
    options["context_handler"] = RandomizedBlending(chunk_length, overlap, dim, cfg, cfg_rescale, seed)
    if cfg not in (0, 1):
        # If the sampler's own cfg is 1, the host would skip the negative.
        options["disable_cfg1_optimization"] = True

    def around_sampling(executor, noise, *args, **kwargs):
        if noise.ndim > dim and noise.shape[dim] <= chunk_length:
            messages.warn(
                f"{NODE}: the clip has {noise.shape[dim]} latent frames and chunk_length is {chunk_length}, so nothing "
                "is blended. Use a shorter chunk_length or a longer clip.",
                node,
            )
        return executor(noise, *args, **kwargs)

    wrappers = comfy.patcher_extension.WrappersMP
    patched.remove_wrappers_with_key(wrappers.OUTER_SAMPLE, KEY)
    patched.add_wrapper_with_key(wrappers.OUTER_SAMPLE, KEY, around_sampling)
    patched.remove_wrappers_with_key(wrappers.PREPARE_SAMPLING, MEMORY_KEY)
    windows.create_prepare_sampling_wrapper(patched)
    return patched


def refine(model: ModelPatcher, steps: int, start_timestep: int, scale_start: bool) -> tuple[ModelPatcher, Tensor]:
    """(a clone whose sampling starts as published, SIGMAS of the published refinement). Raises ValueError for another
    model.

    start_timestep: the timestep that a clip is noised to. scale_start: see `RefinementSampling`.
    """
    if not isinstance(model.get_model_object("model_sampling"), RefinementSampling):
        raise ValueError(
            f"MODEL is a {type(model.model).__name__}; MS-Vid2Vid is expected. For other models use "
            "BasicScheduler with denoise below 1."
        )
    sigmas = refinement.refine_sigmas(steps, start_timestep).float()
    patched = model.clone()
    patched.add_object_patch("model_sampling", RefinementSampling(float(sigmas[0]) if scale_start else None))
    return patched, sigmas
