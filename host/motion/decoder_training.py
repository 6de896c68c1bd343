"""Joint training of a motion predictor: beside the errors of its tokens, that of a frozen video model that reads them.

StoryDiffusion (arXiv 2405.01434, section 3.2, equation 8) compares frames; a latent video model is trained by the noise
that it finds in them, so the error is the noise's, squared, at a random level (arXiv 2006.11239, equation 14), and the
predictor gets its gradient through the layers that look at the tokens. The model runs as in any sampling of the host's,
which loads it and lets it go; it learns nothing itself.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import comfy.ops
import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor
from torch.nn import functional as F

from ...core.motion.trajectory import Trajectory
from ...core.networks.semantic_motion.config import PredictorConfig
from ...core.networks.semantic_motion.training import Clip
from .apply import KEY, MODULES, Run, apply_to_sd15
from .clips import NODE, digest, read_latents

OVERRIDE = "optimized_attention_override"  # the host's name, in transformer_options
LEVELS = 1000  # of noise
ROWS = 8  # of the host's estimates of memory make one of a frame with gradients; SD1.5's layers keep 4, modules more
SAMPLED = 256  # numbers of a weight that tell it from others

T = TypeVar("T")
# error(predicted tokens of a window [L, N, D], its clip, its first frame there, generator) -> what to minimise
VideoError = Callable[[Tensor, Clip, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Decoder:
    """How SD1.5 becomes a video model that looks at tokens, see `apply_to_sd15`."""

    module: str | None
    adapter: str | None
    strength: float = 1.0
    own_schedule: bool = True


@dataclass(frozen=True)
class Joint:
    """A video model, and its part in a training.

    positive: CONDITIONING, what all clips show. weight: of the model's error in the loss; 0 trains without the model.
    size: sides of the frames' middle squares, in pixels. frames: so many consecutive ones of a window go through the
    model in a step.
    """

    model: ModelPatcher
    vae: object
    positive: list
    decoder: Decoder
    weight: float = 1.0
    size: int = 256
    frames: int = 8


class FrozenVideo:
    """The video model of a joint training. told: what its key and the predictor's file say of it.

    Raises ValueError for a model, a VAE and files that do not go together, or not with the predictor's tokens.
    """

    def __init__(self, joint: Joint, config: PredictorConfig):
        _check(joint, config)
        self.joint, self.space = joint, config.space
        motion = Trajectory(torch.zeros(joint.frames, config.tokens, config.token_width), config.space)
        self.model = apply_to_sd15(joint.model, motion, **asdict(joint.decoder))
        for modules in self.model.get_additional_models_with_key(MODULES):
            _check_length(min(joint.frames, config.frames), modules.model.config.frames)
        parts = [self.model, *self.model.get_nested_additional_models()]
        seen = [[_weights(part) for part in parts], _schedule(self.model), _contents(joint.positive)]
        self.told = {"weight": joint.weight, "size": joint.size, "frames": joint.frames, **asdict(joint.decoder)}
        self.told |= {"model": _name(joint.model), "digest": digest(seen)}
        for part in parts:
            _compute_with_copies(part)

    def during(self, latents: dict[Path, Path], beside: int, work: Callable[[VideoError], T]) -> T:
        """What `work(error)` returns; the model is there until then.

        latents: {path of a clip's tokens: of its latents}. beside: bytes that `work` itself needs on the device.
        """

        def with_gradients(executor, model, shape, *args, **kwargs):
            copies = sum(part.model_size() for part in (model, *model.get_nested_additional_models()))
            extra = math.ceil((beside + copies) / model.model.memory_required([1, *shape[1:]]))
            return executor(model, [ROWS * shape[0] + extra, *shape[1:]], *args, **kwargs)

        model = self.model.clone()
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, with_gradients)
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": self.joint.positive})
        training = _Training(lambda *run: work(partial(self._error, latents, *run)))
        first = read_latents(next(iter(latents.values())), 0, 1)
        blank = torch.zeros(self.joint.frames, *first.shape[1:])
        guider.sample(blank, blank, training, torch.ones(1), disable_pbar=True, seed=0)
        return training.result

    def _error(
        self,
        latents: dict[Path, Path],
        guider: comfy.samplers.CFGGuider,
        options: dict,
        predicted: Tensor,
        clip: Clip,
        start: int,
        generator: torch.Generator,
    ) -> Tensor:
        """A `VideoError`. Where in the window, at which level and under which noise, the generator decides."""

        def pick(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        model, device = guider.inner_model, predicted.device
        count = min(len(predicted), self.joint.frames)
        first, level = pick(len(predicted) - count + 1), (pick(LEVELS) + 0.5) / LEVELS
        clean = model.process_latent_in(read_latents(latents[clip.path], start + first, count)).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = torch.full((count,), model.model_sampling.percent_to_sigma(level), device=device)
        noisy = model.model_sampling.noise_scaling(sigma, noise, clean)

        tokens = predicted[first : first + count]
        inside = {**options["transformer_options"], KEY: Run(Trajectory(tokens, self.space)), OVERRIDE: _attend}
        with torch.autocast(device.type, enabled=False):  # the model has formats of its own
            denoised = guider(noisy, sigma, {**options, "transformer_options": inside}, 0)
        # On the way back through a model in half precision, gradients of a mean would be too small for it.
        scale = 2.0 ** round(math.log2(clean.numel()))
        denoised.register_hook(lambda gradient: gradient * scale)
        tokens.register_hook(lambda gradient: gradient / scale)
        return self.joint.weight * F.mse_loss((noisy - denoised) / sigma[:, None, None, None], noise)


class _Training(comfy.samplers.Sampler):
    """A whole training in the place of a sampler: the host has loaded the model, and lets it go when this is done."""

    def __init__(self, work: Callable[[comfy.samplers.CFGGuider, dict], T]):
        self.work = work

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        self.result = self.work(model_wrap, extra_args["model_options"])
        return noise


def _attend(chosen: Callable, *args, **kwargs) -> Tensor:
    """Attention with a gradient, in the place of the host's choice, which may be one that has none."""
    return attention_pytorch(*args, **kwargs)


def _compute_with_copies(model: ModelPatcher) -> None:
    """Let layers compute with copies of their weights, for autograd keeps what it needs on the way back: it takes no
    tensor that came about in inference mode, as the host's do, and a buffer that weights are streamed through is soon
    another layer's."""
    for name, layer in model.model.named_modules():
        if isinstance(layer, comfy.ops.CastWeightBiasOp):
            for key, _ in layer.named_parameters(name, recurse=False):
                model.add_weight_wrapper(key, Tensor.clone)


def _check(joint: Joint, config: PredictorConfig) -> None:
    if config.space == "dynamicrafter":
        raise ValueError(
            f"{NODE}: the predictor is for DynamiCrafter, and joint training goes through SD1.5 alone; choose none as "
            "the video model, or IP-Adapter as the space of Load Motion Predictor."
        )
    if joint.vae is None:
        raise ValueError(f"{NODE}: vae is empty, the checkpoint carries none; use Load VAE.")
    made, read = joint.vae.latent_channels, joint.model.model.latent_format.latent_channels
    if made != read:
        raise ValueError(f"{NODE}: the VAE makes latents of {made} channels, and the MODEL reads {read}.")
    if joint.decoder.adapter is not None and not joint.decoder.strength:
        raise ValueError(f"{NODE}: at strength 0 the video model looks at no tokens, so nothing can be learnt from it.")


def _check_length(frames: int, known: int) -> None:
    if frames > known:
        raise ValueError(
            f"{NODE}: {frames} frames of a window go through the model at once, and the motion module knows positions "
            f"for {known}; set the video model's frames to at most so many."
        )


def _name(model: ModelPatcher) -> str:
    """For the reader: its kind, and its file if a loader of the host's read it."""
    kind = type(model.model.model_config).__name__
    source = model.cached_patcher_init[1][0] if model.cached_patcher_init else None
    return f"{kind} ({Path(source).name})" if isinstance(source, str) else kind


def _weights(model: ModelPatcher) -> object:
    """A model's, and what is patched into them, wherever they are. Its schedule is apart: it keeps the last clone's."""
    patches = model.get_key_patches().items()
    return {key: _contents(found) for key, found in patches if not key.startswith("model_sampling.")}


def _schedule(model: ModelPatcher) -> list:
    """Of its noise, and what it predicts."""
    sampling = model.get_model_object("model_sampling")
    kinds = [kind.__name__ for kind in type(sampling).__mro__]
    return [kinds, [sampling.percent_to_sigma(share / 8) for share in range(1, 8)]]


def _contents(value) -> object:
    """What tells weights, patches of weights or conditions from others: of tensors, the shape and a few numbers."""
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
