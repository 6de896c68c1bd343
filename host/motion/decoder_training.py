"""Training a motion predictor through a frozen video model, whose error is added to the errors of the tokens.

StoryDiffusion (arXiv 2405.01434, section 3.2, equation 8) compares frames. Here the error is the squared error of the
noise that the model predicts at a random noise level (arXiv 2006.11239, equation 14). Its gradient reaches the
predictor through the layers that read the tokens. The host loads and unloads the model as for any sampling; its weights
do not change.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import comfy.ops
import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.motion.trajectory import Trajectory
from ...core.networks.semantic_motion.config import PredictorConfig
from ...core.networks.semantic_motion.training import TokenClip
from .apply import KEY, MODULES, MotionState, apply_to_sd15
from .clips import digest, read_latents
from .job import VideoModelConfig

OVERRIDE = "optimized_attention_override"  # the host's name, in transformer_options
LEVELS = 1000  # of noise
GRADIENT_ROWS = 8  # a frame with gradients takes the host's memory estimate of so many; SD1.5 takes 4, modules more
SAMPLED = 256  # values of a weight that its digest reads

T = TypeVar("T")
# error(predicted tokens of a window [L, N, D], its clip, its first frame there, generator) -> what to minimise
VideoError = Callable[[Tensor, TokenClip, int, torch.Generator], Tensor]


class FrozenVideo:
    """The video model of a training. metadata: what the predictor's file states about it.

    Raises ValueError for a model, a VAE and files that do not match each other or the predictor's tokens.
    """

    def __init__(self, settings: VideoModelConfig, config: PredictorConfig):
        _check(settings, config)
        self.settings, self.token_space = settings, config.token_space
        motion = Trajectory(torch.zeros(settings.frames, config.tokens, config.token_width), config.token_space)
        self.model = apply_to_sd15(settings.model, motion, **asdict(settings.decoder))
        for modules in self.model.get_additional_models_with_key(MODULES):
            _check_length(min(settings.frames, config.frames), modules.model.config.frames)
        parts = [self.model, *self.model.get_nested_additional_models()]
        digested = [[_weights(part) for part in parts], _schedule(self.model), _contents(settings.positive)]
        self.metadata = {name: getattr(settings, name) for name in ("loss_weight", "resolution", "frames")}
        self.metadata |= asdict(settings.decoder) | {"model": _name(settings.model), "digest": digest(digested)}
        for part in parts:
            _compute_with_copies(part)

    def run(self, latents: dict[Path, Path], extra_bytes: int, work: Callable[[VideoError], T]) -> T:
        """What `work(error)` returns; the model is loaded until then.

        latents: {path of a clip's tokens: path of its latents}. extra_bytes: that `work` itself takes on the device.
        """

        def with_gradients(executor, model, shape, *args, **kwargs):
            copies = sum(part.model_size() for part in (model, *model.get_nested_additional_models()))
            extra = math.ceil((extra_bytes + copies) / model.model.memory_required([1, *shape[1:]]))
            return executor(model, [GRADIENT_ROWS * shape[0] + extra, *shape[1:]], *args, **kwargs)

        model = self.model.clone()
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, with_gradients)
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": self.settings.positive})
        training = _Training(lambda *run: work(partial(self._error, latents, *run)))
        first = read_latents(next(iter(latents.values())), 0, 1)
        blank = torch.zeros(self.settings.frames, *first.shape[1:])
        guider.sample(blank, blank, training, torch.ones(1), disable_pbar=True, seed=0)
        return training.result

    def _error(
        self,
        latents: dict[Path, Path],
        guider: comfy.samplers.CFGGuider,
        options: dict,
        predicted: Tensor,
        clip: TokenClip,
        start: int,
        generator: torch.Generator,
    ) -> Tensor:
        """A `VideoError`. The generator draws the frames of the window, the noise level and the noise."""

        def pick(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        model, device = guider.inner_model, predicted.device
        count = min(len(predicted), self.settings.frames)
        first, level = pick(len(predicted) - count + 1), (pick(LEVELS) + 0.5) / LEVELS
        clean = model.process_latent_in(read_latents(latents[clip.path], start + first, count)).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = torch.full((count,), model.model_sampling.percent_to_sigma(level), device=device)
        noisy = model.model_sampling.noise_scaling(sigma, noise, clean)

        tokens = predicted[first : first + count]
        inside = {
            **options["transformer_options"],
            KEY: MotionState(Trajectory(tokens, self.token_space)),
            OVERRIDE: _attend,
        }
        with torch.autocast(device.type, enabled=False):  # the model has its own formats
            denoised = guider(noisy, sigma, {**options, "transformer_options": inside}, 0)
        # Scaled for the backward pass: in half precision the gradients of a mean would underflow.
        scale = 2.0 ** round(math.log2(clean.numel()))
        denoised.register_hook(lambda gradient: gradient * scale)
        tokens.register_hook(lambda gradient: gradient / scale)
        return self.settings.loss_weight * F.mse_loss((noisy - denoised) / sigma[:, None, None, None], noise)


class _Training(comfy.samplers.Sampler, Generic[T]):
    """A whole training run as a sampler: the host has loaded the model, and unloads it afterwards."""

    def __init__(self, work: Callable[[comfy.samplers.CFGGuider, dict], T]):
        self.work = work

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        self.result = self.work(model_wrap, extra_args["model_options"])
        return noise


def _attend(chosen: Callable, *args, **kwargs) -> Tensor:
    """Attention with gradients, in place of the host's choice, which may have none."""
    return attention_pytorch(*args, **kwargs)


def _compute_with_copies(model: ModelPatcher) -> None:
    """Let layers compute with copies of their weights. Autograd keeps weights for the backward pass, but accepts no
    tensors from inference mode, which the host's are, and a buffer for streamed weights is soon reused."""
    for name, layer in cast(nn.Module, model.model).named_modules():
        if hasattr(layer, "comfy_cast_weights"):  # as the host asks
            for key, _ in layer.named_parameters(name, recurse=False):
                model.add_weight_wrapper(key, Tensor.clone)


def _check(settings: VideoModelConfig, config: PredictorConfig) -> None:
    if config.token_space == "dynamicrafter":
        raise ValueError(
            "the predictor is for DynamiCrafter, and video_model supports SD1.5 only; set video_model to "
            "none, or token_space in Load Motion Predictor to IP-Adapter."
        )
    if settings.vae is None:
        raise ValueError("vae is empty: the checkpoint has none. Use Load VAE.")
    made, expected = settings.vae.latent_channels, settings.model.model.latent_format.latent_channels
    if made != expected:
        raise ValueError(f"the VAE makes latents of {made} channels, and the MODEL expects {expected}.")
    if settings.decoder.adapter is not None and not settings.decoder.strength:
        raise ValueError("strength is 0, so the video model ignores the tokens; raise it, or set video_model to none.")


def _check_length(frames: int, known: int) -> None:
    if frames > known:
        raise ValueError(
            f"{frames} frames go through the video model at once, and the motion module supports {known}; set "
            f"the video model's frames to at most {known}."
        )


def _name(model: ModelPatcher) -> str:
    """For the reader: its kind, and its file if one of the host's loaders read it."""
    kind = type(model.model.model_config).__name__
    source = model.cached_patcher_init[1][0] if model.cached_patcher_init else None
    return f"{kind} ({Path(source).name})" if isinstance(source, str) else kind


def _weights(model: ModelPatcher) -> object:
    """Digests of a model's weights and their patches. Not its schedule, which is the last sampled clone's."""
    patches = model.get_key_patches().items()
    return {key: _contents(found) for key, found in patches if not key.startswith("model_sampling.")}


def _schedule(model: ModelPatcher) -> list:
    """The noise schedule, and what the model predicts."""
    sampling = cast(Any, model.get_model_object("model_sampling"))
    kinds = [kind.__name__ for kind in type(sampling).__mro__]
    return [kinds, [sampling.percent_to_sigma(share / 8) for share in range(1, 8)]]


def _contents(value) -> object:
    """A digest of weights, patches or conditioning; of tensors, their shape and some of their values."""
    if isinstance(value, Tensor):
        some = value.detach().flatten()[:: max(1, value.numel() // SAMPLED)].float().cpu()
        return [list(value.shape), hashlib.sha256(some.numpy().tobytes()).hexdigest()]
    if isinstance(value, WeightAdapterBase):
        return _contents(value.weights)
    if isinstance(value, dict):
        return {str(key): _contents(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_contents(inner) for inner in value]
    return value if isinstance(value, str | int | float) else None
