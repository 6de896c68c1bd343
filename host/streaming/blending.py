"""Randomized blending (StreamingT2V, section 4.3) as the host's context handler, for its stock samplers and for any of
its video models; and the noise levels of the published refinement.
"""

from collections.abc import Callable, Sequence

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
TWO, THREE = 2, 3  # dimensions of a latent: pictures with frames as the batch, and video


class RandomizedBlending(windows.IndexListContextHandler):
    """Every evaluation of the model is made of chunks, each of which begins where a draw says.

    length, overlap: of chunks, in frames of the latent. dim: of the latent, along which frames lie.
    guidance: applied here, to each chunk, as is its rescale, which looks at a chunk as a whole; the sampler's own then
        changes nothing, for it finds both halves equal. 0: left to the sampler.
    draw: (starts, sigma) -> how many frames each chunk leaves to the one before; by default from the seed.
    """

    def __init__(
        self,
        length: int,
        overlap: int,
        dim: int,
        guidance: float = 0.0,
        rescale: float = 0.0,
        seed: int = 0,
        draw: Callable[[Sequence[int], float], list[int]] | None = None,
    ):
        super().__init__(
            windows.ContextSchedule("randomized_blending", _chunks),
            windows.ContextFuseMethod("randomized_blending", None),
            context_length=length,
            context_overlap=overlap,
            dim=dim,
            causal_window_fix=False,  # it would show the model a frame more than a chunk has
        )
        self.guidance, self.rescale = guidance, rescale
        self.draw = draw or (lambda starts, sigma: blending.draw_offsets(starts, length, seed, sigma))
        self.offsets: list[int] = []

    def should_use_context(self, model, conds, x_in, timestep, model_options):
        return True  # a clip of a single chunk too, for its guidance

    def execute(self, calc_cond_batch, model, conds, x_in, timestep, model_options):
        shapes = self._get_latent_shapes(conds)
        if shapes is not None and len(shapes) > 1:
            raise ValueError(f"{NODE}: the LATENT holds sound beside the video; a LATENT of video alone is expected.")
        if self.guidance and len(conds) == 2:
            if self.guidance == 1:
                conds = [conds[0], None]  # nothing of the other half is used
            elif conds[1] is None:
                raise ValueError(
                    f"{NODE}: guidance is {self.guidance:g} and the guider has no negative; choose a guider with one, "
                    "or guidance 1."
                )
        elif self.guidance and len(conds) > 2:
            raise ValueError(
                f"{NODE}: the guider asks for {len(conds)} conditionings, and guidance here is between two; set "
                "guidance to 0, and the guider does its own."
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
        if self.guidance and len(chunks) == 2:
            chunks = [self.guided(x_in.narrow(self.dim, start, length), *chunks, timestep)] * 2
        for clip, count, chunk in zip(conds_final, counts_final, chunks, strict=True):
            blending.hand_over(clip, chunk, start, self.offsets[window_idx], self.dim)
            count.fill_(1.0)  # what the host divides by: frames are not averaged

    def guided(self, x: Tensor, cond: Tensor, uncond: Tensor, timestep: Tensor) -> Tensor:
        """A denoised chunk of both halves. The rescale compares what the model put out, not what follows from it."""
        if self.guidance == 1:
            return cond
        guided = uncond + self.guidance * (cond - uncond)
        if not self.rescale:
            return guided
        # For every kind of model, what is denoised is an affine function of the output.
        denoised, sigma = self._model.model_sampling.calculate_denoised, timestep[:1].to(x)
        at_zero = denoised(sigma, torch.zeros_like(x), x)
        slope = denoised(sigma, x.new_ones([1] * x.ndim), x.new_zeros([1] * x.ndim))
        outputs = [(half - at_zero) / slope for half in (guided, cond)]
        if self.dim == 0:
            outputs = [output[None] for output in outputs]
        return at_zero + slope * rescale_guidance(*outputs, self.rescale).view_as(x)


def _chunks(frames: int, handler: RandomizedBlending, options: dict) -> list[list[int]]:
    starts = blending.chunk_starts(frames, handler.context_length, handler.context_overlap)
    return [list(range(start, min(start + handler.context_length, frames))) for start in starts]


def patch_blending(
    model: ModelPatcher, length: int, overlap: int, guidance: float, rescale: float, seed: int
) -> ModelPatcher:
    """A clone that samples in chunks, see `RandomizedBlending`.

    Raises ValueError for chunks that do not overlap, for a rescale of guidance that is not done here, and for a model
    whose latents are neither a batch, which is taken for frames, nor have a dimension of time.
    """
    blending.chunk_starts(length, length, overlap)
    if rescale and not guidance:
        raise ValueError(
            f"{NODE}: rescale is {rescale:g} and guidance 0, so that the sampler guides; rescale what is guided here, "
            "or set rescale to 0."
        )
    dimensions = model.model.latent_format.latent_dimensions
    if dimensions not in (TWO, THREE):
        raise ValueError(f"{NODE}: MODEL is a {type(model.model).__name__}; a model of video is expected.")
    patched = model.clone()
    patched.model_options["context_handler"] = RandomizedBlending(
        length, overlap, 0 if dimensions == TWO else 2, guidance, rescale, seed
    )
    if guidance not in (0, 1):
        # Where the sampler's own guidance is 1, the host would leave the negative out.
        patched.model_options["disable_cfg1_optimization"] = True
    node, dim = messages.current_node(), patched.model_options["context_handler"].dim

    def around_sampling(executor, noise, *args, **kwargs):
        if noise.ndim > dim and noise.shape[dim] <= length:
            messages.warn(
                f"{NODE}: the clip has {noise.shape[dim]} frames of the latent and a chunk {length}, so it is one "
                "chunk and nothing is blended; a shorter chunk or a longer clip is expected.",
                node,
            )
        return executor(noise, *args, **kwargs)

    wrappers = comfy.patcher_extension.WrappersMP
    patched.remove_wrappers_with_key(wrappers.OUTER_SAMPLE, KEY)
    patched.add_wrapper_with_key(wrappers.OUTER_SAMPLE, KEY, around_sampling)
    patched.remove_wrappers_with_key(wrappers.PREPARE_SAMPLING, MEMORY_KEY)
    windows.create_prepare_sampling_wrapper(patched)
    return patched


def refine(model: ModelPatcher, steps: int, start: int, scaled: bool) -> tuple[ModelPatcher, Tensor]:
    """(a clone that begins as published, SIGMAS of the published refinement). Raises ValueError for another model.

    start: the timestep that a clip is noised to. scaled: see `refinement.start_scale`.
    """
    if not isinstance(model.get_model_object("model_sampling"), RefinementSampling):
        raise ValueError(
            f"Refine Sigmas: MODEL is a {type(model.model).__name__} with another schedule; these are "
            "MS-Vid2Vid's noise levels. For others use BasicScheduler with denoise below 1."
        )
    sigmas = refinement.refine_sigmas(steps, start).float()
    patched = model.clone()
    patched.add_object_patch("model_sampling", RefinementSampling(float(sigmas[0]) if scaled else None))
    return patched, sigmas
