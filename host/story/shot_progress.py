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


def with_progress(
    model: ModelPatcher, node: str, number: int, shots: int, first: int = 0, steps: int = 0
) -> ModelPatcher:
    """The MODEL, which shows on the node at which step of shot `number`, counted from 0, it is.

    first, steps: where two models share the steps of a shot, those before this one, and all of them.
    """
    return with_steps(model, node, f"shot {number + 1} of {shots}", first, steps)


def with_steps(model: ModelPatcher, node: str, part: str, first: int = 0, steps: int = 0) -> ModelPatcher:
    """The MODEL, which shows on the node at which step it is of `part`, for instance "frame 7 of 40"."""

    def wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        def show_step(step, denoised, x, own_steps):
            show_progress(f"{part}, step {first + step + 1} of {steps or own_steps}", node)
            if callback is not None:
                return callback(step, denoised, x, own_steps)

        return executor(noise, latent_image, sampler, sigmas, denoise_mask, show_step, *args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper)
    return model
