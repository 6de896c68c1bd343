"""Patching a MODEL with Consistent Self-Attention, and checking each sampling run."""

import math
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.attention.bank import Bank
from ...core.attention.consistent import Settings
from ...core.attention.schedule import describe_idle, describe_steps
from ...core.attention.sharing import Cast, find_groups
from ...core.story.frames import frames_in
from ...core.story.story import Story
from ...core.text import joined
from ..common import messages
from ..common.attention_patches import remove_patches
from .attention_record import AttentionRecord
from .bank_model import check_size
from .families import Family, family_of
from .recording import RECORD, recording
from .regions import begin_regions
from .sampling_state import CONFIG, KEY, NODE, PatchConfig, PatchRange, SamplingState
from .transformer import TransformerSeam
from .unet import SharedAttention, UNetSeam

FEW_STEPS = 9  # distilled transformers run 4 to 9


def apply_consistent_attention(
    model: ModelPatcher,
    settings: Settings,
    patch_range: PatchRange,
    cast: Cast | None,
    mask: Tensor | None = None,
    bank: Bank | None = None,
    story: Story | None = None,
    attention: AttentionRecord | None = None,
) -> ModelPatcher:
    """A clone of `model` whose self-attention shares tokens between the frames of a batch.

    mask: [frames or 1, H, W] of any size, 1 where tokens are shared. bank: finished; frames also read the tokens of
    their characters in it, and share none of these characters with each other. story: that `cast` is of.
    attention: where runs are recorded for an attention map.

    A second application replaces the first. At strength 0 the clone has no patch of this kind. A setting without effect
    is reported on the node, now or when the model samples. Raises ValueError for a network that is neither an image
    UNet nor a transformer of `families`, and for a setting that it does not have.
    """
    family = family_of(model)
    if family is not None:  # a transformer has one level
        settings = replace(settings, sampling_rate_fine=settings.sampling_rate)
        if bank is not None:
            raise ValueError(
                f"bank holds tokens of a UNet, and MODEL is {family.name}; SD1.5, SD2.x or SDXL is expected."
            )
    config = PatchConfig(settings, patch_range, cast, mask, bank, story, attention, messages.current_node())
    seam = UNetSeam(model, config) if family is None else _transformer_seam(family, model, config)
    patched = model.clone()
    remove_consistent_attention(patched)
    if idle := _describe_idle(settings, patch_range, mask):
        messages.warn(idle)
    if settings.strength == 0:
        return patched
    seam.install(patched)
    patched.model_options["transformer_options"][CONFIG] = config

    def around_sampling(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        conds = len(getattr(guider, "conds", ()))
        frames = _check_batch(latent_image, cast, mask)
        seam.check(guider.model_options)
        sampling = guider.model_patcher.get_model_object("model_sampling")
        state = SamplingState.begin(config, sampling, sigmas, noise, frames, conds)
        few = isinstance(seam, TransformerSeam) and len(sigmas) <= FEW_STEPS + 1
        if bank is not None:
            check_size(bank, *noise.shape[-2:])
            state.reader = seam.reader(guider)
        options = guider.model_options["transformer_options"]
        record, state.regions = options.get(RECORD), begin_regions(options, config, state, guider, noise)
        if state.regions is not None and family is not None:
            state.warn_once(f"a Character Region has no effect: MODEL is {family.name}, and regions are for UNets.")
        elif state.regions is not None and cast is None and bank is None and record is None:
            state.warn_once("a Character Region has an effect on the frames of a STORY, and none is connected.")
        message = None
        if idle is None:
            message = _describe_run(config, state, sigmas, len(noise), few, record is not None)
        if message:
            state.warn_once(message)
        guider.model_options["transformer_options"][KEY] = state
        with ExitStack() as recordings:
            results = []
            if record is not None:
                run = recording(record, config, state, guider, noise, sampler, sigmas)
                results.append(recordings.enter_context(run))
            if attention is not None:
                run = attention.recording(config, state, seam.map_layers(), latent_image, sigmas.tolist())
                results.append(recordings.enter_context(run))
            out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            for result in results:
                result.append(out)
        if idle is None and message is None:
            if state.every_cond and patch_range.apply_to != "both":
                state.warn_once(
                    f"apply_to is {patch_range.apply_to}, and this guider has {conds} conds; all of them share tokens."
                )
            nothing = state.describe_nothing_shared(config, bank is not None or record is not None)
            if message := nothing or seam.describe_run(state):
                state.warn_once(message)
            elif state.regions is not None:
                state.regions.finish()
        return out

    def around_preparation(executor, model, noise_shape, *args, **kwargs):
        return executor(model, _with_extra_memory(model, noise_shape, patch_range.extra_bytes), *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_sampling)
    patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, around_preparation)
    return patched


def _transformer_seam(family: Family, model: ModelPatcher, config: PatchConfig) -> TransformerSeam:
    latents: Any = model.get_model_object("latent_format")
    network = model.get_model_object("diffusion_model")
    return TransformerSeam(family, network, latents.spacial_downscale_ratio, config)


def remove_consistent_attention(model: ModelPatcher) -> None:
    """Remove an earlier application and restore the patches that it wrapped."""
    remove_patches(model, "attn1", SharedAttention)
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, KEY)
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    model.model_options["transformer_options"].pop(CONFIG, None)


def _check_batch(latents: Tensor, cast: Cast | None, mask: Tensor | None) -> tuple[int, ...] | None:
    """The story frame of each image, if the latents hold it. Raises ValueError if STORY or MASK do not fit."""
    images, frames = len(latents), frames_in(latents)
    if frames is not None and (len(set(frames.numbers)) < images or cast is None or frames.count != len(cast)):
        frames = None
    masks = {1, images} if frames is None else {1, images, frames.count}
    if mask is not None and images > 1 and len(mask) not in masks:  # one image shares nothing
        raise ValueError(
            f"{NODE}: the MASK has {len(mask)} images and the LATENT has {images}; one mask for all images or one mask "
            "per image is expected."
        )
    if cast is not None and frames is None and images not in (1, len(cast)):
        raise ValueError(
            f"{NODE}: the STORY has {len(cast)} frames and the LATENT has {images} images; "
            "create the LATENT with Empty Story Latent from the same STORY."
        )
    return frames and frames.numbers


def _describe_idle(settings: Settings, patch_range: PatchRange, mask: Tensor | None) -> str | None:
    """Why no run will share tokens; None if they can."""
    if message := describe_idle(settings, patch_range.percents):
        return message
    if mask is not None and not (mask > 0).any():
        return "the mask is black everywhere, so no tokens are shared; paint the characters white."
    return None


def _describe_run(
    config: PatchConfig, state: SamplingState, sigmas: Tensor, images: int, few: bool, recorded: bool
) -> str | None:
    """Why a run will share no tokens, or too few; None if it will. few: whether its steps are. recorded: so its images
    need not share tokens with each other."""
    frames = state.all_frames
    if config.bank is not None:
        shown = frozenset().union(*(() if config.cast is None else config.cast[frame] for frame in frames))
        unknown = frozenset() if recorded else shown - config.bank.characters
        if any(config.bank_images(frames)) and not unknown:
            return describe_steps(config.settings, config.patch_range.percents, state.phases, sigmas.tolist(), few)
        if not unknown:  # [NC] frames read nothing, as they should
            return None
        held = ", ".join(sorted(config.bank.characters)).strip(", ") or "one character without a name"
        return (
            f"the bank holds {held}, and not {joined([name or 'the character' for name in sorted(unknown)])}, whose "
            "frames read nothing from it."
        )
    if recorded:
        return describe_steps(config.settings, config.patch_range.percents, state.phases, sigmas.tolist(), few)
    if images == 1:
        return "the LATENT has 1 image, so no tokens are shared; use a batch of at least 2 images."
    if not any(group.sources for group in find_groups(frames, config.cast, config.settings.rules)):
        return (
            "no frames share tokens, so this node has no effect: no character is in two frames, or tile_size and "
            "anchors separate all frames."
        )
    return describe_steps(config.settings, config.patch_range.percents, state.phases, sigmas.tolist(), few)


def _with_extra_memory(model: ModelPatcher, noise_shape, extra_bytes: int) -> list[int]:
    """The shape from which the host estimates memory, enlarged by the number of images that need the extra memory."""
    shape = list(noise_shape)
    image = model.model.memory_required([1, *shape[1:]])
    return [shape[0] + math.ceil(extra_bytes / image), *shape[1:]]
