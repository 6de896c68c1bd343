"""A bank from images that no run has drawn: each image is noised to a step's noise level and read by the model once.

StoryDiffusion's write phase (arXiv 2405.01434, section 3.1) records tokens of images while they are drawn. An image
that exists already has the same tokens at the noise levels that its drawing would have passed: x = noise_scaling(sigma,
noise, latent), with one noise for all steps. So no network for faces is needed, and any style works.
"""

from collections.abc import Sequence

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from latent_preview import prepare_callback
from torch import Tensor

from ...core.attention.bank import DTYPES, Bank, BankImage, Recorder, Recording
from ...core.attention.bank_plan import Plan
from ...core.attention.schedule import describe_idle, describe_steps, step_of
from ...core.rng import generator
from ..common import messages
from ..common.conditioning import count_rows, pick_row
from .bank_model import model_id, network_of
from .bank_previews import preview_of_image
from .patch import remove_consistent_attention
from .recording import (
    RECORD,
    RecordConfig,
    RecordTokens,
    Run,
    allocator_of,
    check_recordable,
    describe_excess,
    origin_of,
    plan_run,
)
from .sampling_state import CONFIG, KEY, PatchConfig, SamplingState
from .sampling_state import NODE as CSA
from .unet_blocks import Layer, self_attention_layers

LEAST = 64  # pixels of a side


def record_images(
    model: ModelPatcher,
    vae,
    images: Tensor,
    name: str,
    positive: list,
    negative: list,
    sigmas: Tensor,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    precision: str = "fp16",
    device: str = "cpu",
    limit: int,
    step_stride: int = 1,
) -> Bank:
    """A bank of one character, of images [B, H, W, 3] that show it.

    model: with Consistent Self-Attention, whose settings say which layers, steps and tokens are recorded. The tokens
    are those of the model without it: they depend on no other image. positive, negative: one row, or one per image.
    sigmas: the schedule. mask: [1 or B, H, W], 1 where tokens are recorded. seed: of the noise. limit: bytes.

    Raises ValueError for a MODEL that cannot record, inputs that do not fit each other, and a bank that would be empty
    or larger than the limit.
    """
    check_recordable(model)
    config = model.model_options["transformer_options"][CONFIG]
    _check_counts(len(images), positive, negative, mask)
    latents = encode_images(model, vae, images)
    if mask is not None and mask.shape[1:] == images.shape[1:3]:
        mask = _crop(mask)
    layers = self_attention_layers(model)
    plan = _plan(model, layers, config, sigmas, latents[0], step_stride)
    identity = model_id(model, layers), network_of(model)
    record = RecordConfig(Bank(), layers, *identity, precision, device, limit, step_stride, messages.current_node())
    conds = [cond for cond in (0, 1) if config.patch_range.applies_to(cond)]
    expected = plan.bytes(len(images), len(conds), DTYPES[precision])
    if message := describe_excess(record, expected, "the number of images", f"sampling_rate of {CSA}"):
        raise ValueError(message)
    if device == "gpu":
        comfy.model_management.free_memory(expected, model.load_device)

    steps = [sigma for sigma in sigmas[:-1].tolist() if _in_plan(plan, step_of(sigma, sigmas.tolist()))]
    sampler = comfy.samplers.KSAMPLER(sample_noised_images, {"steps": steps})
    recorded = Recording(
        origin_of(record, config, sampler, latents[0].shape[-2:], tuple(sigmas.tolist())),
        tuple(BankImage(frozenset({name}), number, "", preview_of_image(image)) for number, image in enumerate(images)),
    )
    recorder = Recorder(recorded, DTYPES[precision], plan.layers_of, allocator_of(record, model.load_device))
    patched = model.clone()
    remove_consistent_attention(patched)
    patched.model_options["transformer_options"].pop(RECORD, None)
    RecordTokens.install(patched, layers)
    show = prepare_callback(patched, len(images) * len(steps))
    for number, latent in enumerate(latents):
        own = None if mask is None else mask[number if len(mask) > 1 else 0][None]
        image_config = PatchConfig(config.settings, config.patch_range, None, own, node=config.node)
        state = SamplingState.begin(image_config, patched.get_model_object("model_sampling"), sigmas, latent)
        state.recording = Run(image_config, plan, recorder, {0: number})
        patched.model_options["transformer_options"][KEY] = state
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(pick_row(positive, number), pick_row(negative, number))
        guider.set_cfg(2.0 if 1 in conds else 1.0)  # at 1 the host computes cond only; results are not used
        done = number * len(steps)
        guider.sample(
            noise_of(seed, number, latent),
            latent,
            sampler,
            sigmas,
            callback=lambda step, x0, x, total, done=done: show(done + step, x0, x, len(images) * len(steps)),
            disable_pbar=True,
            seed=seed,
        )
    recorder.finish()
    _check_tokens(recorded)
    return Bank([recorded])


def sample_noised_images(model, x, sigmas, extra_args=None, callback=None, disable=None, steps=()):
    """A sampler function of the host that calls the model on noised images, and draws nothing: it returns them.

    steps: the noise levels.
    """
    sampling, noise, latent = model.inner_model.inner_model.model_sampling, model.noise, model.latent_image
    for number, sigma in enumerate(steps):
        comfy.model_management.throw_exception_if_processing_interrupted()
        level = sigmas.new_tensor(sigma)
        noised = sampling.noise_scaling(level, noise, latent)
        denoised = model(noised, level * noised.new_ones(len(noised)), **(extra_args or {}))
        if callback is not None:
            callback({"x": noised, "i": number, "sigma": level, "sigma_hat": level, "denoised": denoised})
    return latent


def noise_of(seed: int, number: int, latent: Tensor) -> Tensor:
    """The noise of an image [1, C, h, w], the same in all steps, whatever the number of images."""
    return torch.randn(latent.shape, generator=generator("bank image", seed, number))


def encode_images(model: ModelPatcher, vae, images: Tensor) -> list[Tensor]:
    """Latents [1, C, h, w] of each image, encoded one at a time. Raises ValueError for a VAE of another model."""
    if vae is None:
        raise ValueError("The vae input is empty: the checkpoint holds no VAE. Load one with Load VAE.")
    height, width = images.shape[1:3]
    if min(height, width) < LEAST:
        raise ValueError(f"images are {width} x {height} pixels; at least {LEAST} x {LEAST} are expected.")
    channels, latents = model.get_model_object("latent_format").latent_channels, []
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latent = vae.encode(image[None])
        if latent.ndim != 4 or latent.shape[1] != channels:
            raise ValueError(
                f"vae makes latents of the shape {tuple(latent.shape)}, and MODEL takes {channels} channels; the VAE "
                "of the model's family is expected."
            )
        latents.append(latent)
    return latents


def _crop(mask: Tensor) -> Tensor:
    """A mask [B, H, W] of images as the VAE crops them: to multiples of 8, from the middle."""
    for axis in (1, 2):
        length = mask.shape[axis]
        mask = mask.narrow(axis, length % 8 // 2, length // 8 * 8)
    return mask


def _check_counts(images: int, positive: list, negative: list, mask: Tensor | None) -> None:
    for what, conditioning in (("positive", positive), ("negative", negative)):
        if (rows := count_rows(conditioning)) not in (1, images):
            raise ValueError(
                f"{what} holds {rows} prompts and images holds {images} images; one prompt for all or one per image "
                "is expected."
            )
    if mask is None:
        return
    if len(mask) not in (1, images):
        raise ValueError(
            f"mask holds {len(mask)} masks and images holds {images} images; one mask for all or one per image is "
            "expected."
        )
    for number, one in enumerate(mask, 1):
        if not (one > 0).any():
            raise ValueError(f"mask {number} of {len(mask)} is black everywhere; paint the character white.")


def _plan(
    model: ModelPatcher, layers: Sequence[Layer], config: PatchConfig, sigmas: Tensor, latent: Tensor, step_stride: int
) -> Plan:
    """What will be recorded of each image. Raises ValueError for nothing."""
    settings, patch_range, schedule = config.settings, config.patch_range, sigmas.tolist()
    state = SamplingState.begin(config, model.get_model_object("model_sampling"), sigmas, latent)
    plan = plan_run(layers, config, state.phases, schedule, latent.shape[-2:], step_stride)
    if not plan.layers:
        why = describe_idle(settings, patch_range.percents) or describe_steps(
            settings, patch_range.percents, state.phases, schedule, True
        )
        raise ValueError(
            "nothing would be recorded with the settings of Consistent Self-Attention: "
            f"{why or 'no layer shares tokens in a step of sigmas.'}"
        )
    return plan


def _in_plan(plan: Plan, step: float) -> bool:
    return any(planned == step for planned, _ in plan.layers)


def _check_tokens(recorded: Recording) -> None:
    """Warn about images of which nothing is recorded."""
    for number in range(len(recorded.images)):
        if not any(len(index) for (image, *_), index in recorded.indices.items() if image == number):
            messages.warn(
                f"mask covers less than half of every token of image {number + 1}, so nothing is recorded of it; "
                "paint a larger area."
            )
