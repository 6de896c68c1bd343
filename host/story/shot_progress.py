"""The line of text on a node that samples inside an expansion: which shot or frame, and which step, it is at.

The host's own nodes sample there. A wrapper on their MODEL sees every step and changes none.
"""

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..common.messages import show_progress

KEY = "storyreel_shot_progress"


def show_kept(node: str, kept: int, shots: int) -> None:
    """Show how many shots of a resumed run are on disk. node: the id of the node that makes the shots."""
    if kept:
        show_progress(f"{kept} of {shots} shots were on disk", node)


def with_progress(model: ModelPatcher, node: str, number: int, shots: int) -> ModelPatcher:
    """The MODEL, which shows on the node at which step of shot `number`, counted from 0, it is."""
    return with_steps(model, node, f"shot {number + 1} of {shots}")


def with_steps(model: ModelPatcher, node: str, part: str) -> ModelPatcher:
    """The MODEL, which shows on the node at which step it is of `part`, for instance "frame 7 of 40"."""

    def wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        def show_step(step, denoised, x, steps):
            show_progress(f"{part}, step {step + 1} of {steps}", node)
            if callback is not None:
                return callback(step, denoised, x, steps)

        return executor(noise, latent_image, sampler, sigmas, denoise_mask, show_step, *args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper)
    return model
