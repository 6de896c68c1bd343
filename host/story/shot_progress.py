"""The line of text on a node that animates a story: which shot and which step is being sampled.

The host's own nodes sample the shots inside an expansion. A wrapper on their MODEL sees every step and changes none.
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

    def wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        def show_step(step, denoised, x, steps):
            show_progress(f"shot {number + 1} of {shots}, step {step + 1} of {steps}", node)
            if callback is not None:
                return callback(step, denoised, x, steps)

        return executor(noise, latent_image, sampler, sigmas, denoise_mask, show_step, *args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper)
    return model
