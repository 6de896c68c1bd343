"""Putting Consistent Self-Attention into a MODEL, and watching over it while the model samples."""

import math

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.attention.consistent import Settings
from ...core.attention.schedule import describe_idle, describe_steps
from ...core.attention.sharing import Cast, share
from ...core.story.frames import frames_in
from ..common import messages
from ..common.attention_patches import keys_for, standing, take_out, warn_of_lost
from .sampling_state import KEY, NODE, Reach, Rule, Run
from .shared import SharedAttention
from .unet_blocks import self_attention_layers

BLOCKS = {
    "up": ("output",),
    "middle and up": ("middle", "output"),
    "middle": ("middle",),
    "down": ("input",),
    "all": ("input", "middle", "output"),
}


def apply_consistent_attention(
    model: ModelPatcher, settings: Settings, reach: Reach, cast: Cast | None, mask: Tensor | None = None
) -> ModelPatcher:
    """A clone of `model` whose self-attention shares tokens between the frames of a batch.

    mask: [frames or 1, H, W] of any size, 1 where tokens are lent and borrowed.

    Applied again, it takes the place of the earlier application. At strength 0 the clone has no patch of ours at all.
    Settings without effect are said on the node, now or when the model samples. Raises ValueError if the model is not a
    picture UNet.
    """
    layers = self_attention_layers(model)
    patched = model.clone()
    _remove(patched)
    if idle := _describe_idle(settings, reach, mask):
        messages.warn(f"{NODE}: {idle}")
    if settings.strength == 0:
        return patched

    rule = Rule(settings, reach, cast, mask, messages.current_node())
    before = dict(standing(patched.model_options, "attn1"))
    blocks = {}
    for number, layer in enumerate(layers):
        if layer.block[0] in BLOCKS[reach.blocks]:
            blocks.setdefault(layer.block, {})[layer.index] = number
    keys = [key for block, numbers in blocks.items() for key in keys_for(block, numbers, before)]
    for key in keys:
        patched.set_model_attn1_replace(SharedAttention(rule, blocks[key[:2]], before.get(key)), *key)

    def around_sampling(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        frames = _check_batch(latent_image, cast, mask)
        warn_of_lost(NODE, guider.model_options, "attn1", SharedAttention, keys, rule.node)
        sampling = guider.model_patcher.get_model_object("model_sampling")
        run = Run.begin(rule, sampling, sigmas, tuple(noise.shape[-2:]), frames)
        message = _describe_run(rule, run, sigmas, len(noise)) if idle is None else None
        if message:
            run.say_once(message)
        guider.model_options["transformer_options"][KEY] = run
        out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        if idle is None and message is None and (message := run.describe_nothing_shared(rule)):
            run.say_once(message)
        return out

    def around_preparation(executor, model, noise_shape, *args, **kwargs):
        return executor(model, _with_memory(model, noise_shape, reach.memory), *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_sampling)
    patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, around_preparation)
    return patched


def _remove(model: ModelPatcher) -> None:
    """Take an earlier application out, and put back what it had wrapped."""
    take_out(model, "attn1", SharedAttention)
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, KEY)


def _check_batch(latents: Tensor, cast: Cast | None, mask: Tensor | None) -> tuple[int, ...] | None:
    """The frames of the story that the images are, if they know it. Raises ValueError for what does not fit them."""
    images, frames = len(latents), frames_in(latents)
    if frames is not None and (len(set(frames.numbers)) < images or cast is None or frames.count != len(cast)):
        frames = None
    if mask is not None and len(mask) not in (1, images, *([] if frames is None else [frames.count])):
        raise ValueError(
            f"{NODE}: the MASK has {len(mask)} pictures but the LATENT holds {images}; one for all or one for each is "
            "expected."
        )
    if cast is not None and frames is None and images not in (1, len(cast)):
        raise ValueError(
            f"{NODE}: the STORY has {len(cast)} frames but the LATENT holds {images} images; "
            "make it with Empty Story Latent from the same STORY."
        )
    return frames and frames.numbers


def _describe_idle(settings: Settings, reach: Reach, mask: Tensor | None) -> str | None:
    """Why nothing is shared whatever the run, if so."""
    if message := describe_idle(settings, reach.percents):
        return message
    if mask is not None and not (mask > 0).any():
        return "the mask is empty, and outside of it nothing is shared; paint the characters white."
    return None


def _describe_run(rule: Rule, run: Run, sigmas: Tensor, images: int) -> str | None:
    """Why a run will share nothing, or too little, if so."""
    if images == 1:
        return "the LATENT holds 1 image, which has no other to share tokens with; it is drawn as without this node."
    frames = run.frames_at(tuple(range(images)))
    if not any(group.pool for group in share(frames, rule.cast, rule.settings.rules)):
        return (
            "no two frames share tokens: no character is in two of them, or windows and anchors leave each by itself. "
            "All are drawn as without this node."
        )
    return describe_steps(rule.settings, rule.reach.percents, run.phases, sigmas.tolist())


def _with_memory(model: ModelPatcher, noise_shape, memory: int) -> list[int]:
    """The shape that the host estimates memory from, grown by as many images as the extra memory is worth."""
    shape = list(noise_shape)
    image = model.model.memory_required([1, *shape[1:]])
    return [shape[0] + math.ceil(memory / image), *shape[1:]]
