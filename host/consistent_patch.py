"""Putting Consistent Self-Attention into a MODEL, and watching over it while the model samples."""

import math

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.attention.consistent import Settings
from ..core.attention.sharing import Cast
from .attention import KEY, NODE, Reach, Rule, Run, SharedAttention
from .replacements import keys_for, standing, take_out, warn_of_lost
from .unet import self_attention_layers

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
    Raises ValueError if the model is not a picture UNet.
    """
    layers = self_attention_layers(model)
    patched = model.clone()
    _remove(patched)
    if settings.strength == 0:
        return patched

    rule = Rule(settings, reach, cast, mask)
    before = dict(standing(patched.model_options, "attn1"))
    blocks = {}
    for number, layer in enumerate(layers):
        if layer.block[0] in BLOCKS[reach.blocks]:
            blocks.setdefault(layer.block, {})[layer.index] = number
    keys = [key for block, numbers in blocks.items() for key in keys_for(block, numbers, before)]
    for key in keys:
        patched.set_model_attn1_replace(SharedAttention(rule, blocks[key[:2]], before.get(key)), *key)

    def around_sampling(executor, noise, *args, **kwargs):
        guider = executor.class_obj
        _check_batch(len(noise), cast, mask)
        warn_of_lost(NODE, guider.model_options, "attn1", SharedAttention, keys)
        sampling = guider.model_patcher.get_model_object("model_sampling")
        run = Run.begin(reach, sampling, tuple(noise.shape[-2:]))
        guider.model_options["transformer_options"][KEY] = run
        return executor(noise, *args, **kwargs)

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


def _check_batch(images: int, cast: Cast | None, mask: Tensor | None) -> None:
    if mask is not None and len(mask) not in (1, images):
        raise ValueError(
            f"{NODE}: the MASK has {len(mask)} pictures but the LATENT holds {images}; one for all or one for each is "
            "expected."
        )
    if cast is not None and images not in (1, len(cast)):
        raise ValueError(
            f"{NODE}: the STORY has {len(cast)} frames but the LATENT holds {images} images; "
            "make it with StoryReelStoryLatent from the same STORY."
        )


def _with_memory(model: ModelPatcher, noise_shape, memory: int) -> list[int]:
    """The shape that the host estimates memory from, grown by as many images as the extra memory is worth."""
    shape = list(noise_shape)
    image = model.model.memory_required([1, *shape[1:]])
    return [shape[0] + math.ceil(memory / image), *shape[1:]]
