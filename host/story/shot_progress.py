"""What the host shows of a story's shots while they are sampled: a line of text on the node that makes them.

The shots are sampled by the host's own nodes inside an expansion. A wrapper on their MODEL hears every step; it changes
nothing of what is sampled.
"""

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..common.messages import show_progress

KEY = "storyreel_shot_progress"


def say_kept(node: str, kept: int, shots: int) -> None:
    """Of a run that resumes. node: the id of the node that makes the shots. kept: how many are on disk."""
    if kept:
        show_progress(f"{kept} of {shots} shots were on disk", node)


def with_progress(model: ModelPatcher, node: str, number: int, shots: int) -> ModelPatcher:
    """The MODEL, which says on the node at which step of shot `number`, counted from 0, it is being sampled."""

    def wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        def heard(step, denoised, x, steps):
            show_progress(f"shot {number + 1} of {shots}, step {step + 1} of {steps}", node)
            if callback is not None:
                return callback(step, denoised, x, steps)

        return executor(noise, latent_image, sampler, sigmas, denoise_mask, heard, *args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper)
    return model
