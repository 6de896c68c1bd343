"""DynamiCrafter as a model of the host: frames are the batch axis of a latent, one clip each for cond and uncond.

The CONDITIONING carries VISION_TOKENS, CONCAT_LATENTS and FS. The image projection is part of the MODEL, so that the
same CONDITIONING works with any checkpoint.
"""

from collections.abc import Callable
from typing import Any, cast

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ...core.diffusion import prediction, schedule
from ...core.networks.dynamicrafter.config import ResamplerConfig, UNetConfig
from ...core.networks.dynamicrafter.resampler import Resampler
from ...core.networks.dynamicrafter.unet import UNet
from ..common.ops import host_ops
from ..common.video_model import ClipCondition, ClipModel, HostNetwork, check_size, check_width

VISION_TOKENS = "storyreel_vision_tokens"  # [1, N, width] of the image encoder
IMAGE_TOKENS = "storyreel_image_tokens"  # [1, queries, context width], instead: the image projection's output
CONCAT_LATENTS = "concat_latent_image"  # [T, channels, h, w], as the VAE gives them
FS = "storyreel_fs"  # frame stride or frames a second
MODE = "storyreel_mode"  # "animate", "interpolate" or "loop"
GATE = "storyreel_image_gate"  # in transformer_options: strength of the image tokens (outer, middle layers)
TEXT_TOKENS = 77


class HostUNet(HostNetwork, UNet):
    """The UNet behind the host's interface. fs: [B]."""

    def forward(self, x, timesteps, context, fs, transformer_options, control=None, **kwargs):
        gate = transformer_options.get(GATE, (1.0, 1.0))
        return self.forward_rows(x, timesteps, context, transformer_options, fs, gate)


class RescaledSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """The published schedule in the host's units, for every sampler of the host.

    With k = x / (sqrt(alpha_bar) scale) the dynamic rescale is an ordinary schedule of sigma = sqrt((1 - alpha_bar) /
    alpha_bar) / scale. With zero terminal SNR the last sigma is finite, as the host's own; the signal there is 0.
    """

    log_sigmas: Tensor
    scales: Tensor
    LAST = 4.8973451890853435e-08  # alpha_bar where it should be 0, the host's own value

    def __init__(self, v_prediction: bool, zero_snr: bool, base_scale: float):
        super().__init__()
        self.v_prediction, self.zero_snr = v_prediction, zero_snr
        bars = schedule.alpha_bars(zero_snr)
        if zero_snr:
            bars[-1] = self.LAST
        scales = schedule.scale_table(base_scale)
        self.register_buffer("scales", scales.float(), persistent=False)
        self.set_sigmas(((1 - bars) / bars).sqrt() / scales)

    def parts(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(sqrt(alpha_bar), sqrt(1 - alpha_bar), scale) at any sigma."""
        sigma = sigma.float()
        logs = self.log_sigmas.to(sigma.device)
        log = sigma.log().clamp(logs[0], logs[-1])
        above = torch.searchsorted(logs, log).clamp(1, len(logs) - 1)
        share = (log - logs[above - 1]) / (logs[above] - logs[above - 1])
        scale = torch.lerp(self.scales.to(sigma.device)[above - 1], self.scales.to(sigma.device)[above], share)
        ratio = sigma * scale
        signal, noise = 1 / (1 + ratio**2).sqrt(), ratio / (1 + ratio**2).sqrt()
        if self.zero_snr:
            signal = torch.where(sigma >= self.sigma_max.to(sigma.device) * (1 - 1e-5), 0.0, signal)
        return signal, noise, scale

    def to_x(self, sigma: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the host's units to those of the network: (x, sqrt(alpha_bar), sqrt(1 - alpha_bar), scale)."""
        sigma = sigma.reshape(-1, *[1] * (k.ndim - 1))
        signal, noise, scale = self.parts(sigma)
        # sqrt(alpha_bar) scale = sqrt(1 - alpha_bar) / sigma, also where the signal is 0
        return k * (noise / sigma), signal, noise, scale

    def calculate_input(self, sigma, noise):
        return self.to_x(sigma, noise)[0]

    def calculate_denoised(self, sigma, model_output, model_input):
        x, signal, noise, scale = self.to_x(sigma, model_input)
        x0_of = prediction.x0_of_v if self.v_prediction else prediction.x0_of_epsilon
        return x0_of(x, model_output, signal, noise) / scale

    def output_of(self, sigma: Tensor, denoised: Tensor, k: Tensor) -> Tensor:
        """What the model must have predicted to give `denoised`: the inverse of `calculate_denoised`."""
        x, signal, noise, scale = self.to_x(sigma, k)
        output_of = prediction.v_of_x0 if self.v_prediction else prediction.epsilon_of_x0
        return output_of(x, denoised * scale, signal, noise)

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        sigma = sigma.reshape(-1, *[1] * (noise.ndim - 1))
        if max_denoise:  # the network's input is then this noise
            sigma = sigma / self.parts(sigma)[1]
        return noise * sigma + latent_image

    def inverse_noise_scaling(self, sigma, latent):
        return latent


class DynamiCrafterConfig(comfy.supported_models_base.BASE):
    """How the host sees a checkpoint. unet_config holds the UNet's sizes."""

    unet_extra_config = {}
    memory_usage_factor = 2.0

    def __init__(self, unet: UNetConfig, resampler: ResamplerConfig, latent_format=None):
        super().__init__({"sizes": unet})
        self.resampler = resampler
        self.latent_format = latent_format or comfy.latent_formats.SD15()


class DynamiCrafter(ClipModel):
    """The video UNet and the image projection, as one MODEL."""

    model_name = "DynamiCrafter"
    kind: Any = None  # a DynamiCrafterType, set by the loader
    sampling_class = RescaledSampling

    def __init__(self, config: DynamiCrafterConfig, sampling: RescaledSampling, device=None):
        kind = comfy.model_base.ModelType.V_PREDICTION if sampling.v_prediction else comfy.model_base.ModelType.EPS
        super().__init__(config, kind, device=device, unet_model=HostUNet)
        self.model_sampling = sampling
        dtype = config.unet_config["dtype"]
        layers = comfy.ops.pick_operations(dtype, config.manual_cast_dtype)
        self.image_proj_model = Resampler(config.resampler, host_ops(layers, device, dtype)).requires_grad_(False)
        comfy.model_management.archive_model_dtypes(self.image_proj_model)

    @property
    def sizes(self) -> UNetConfig:
        return cast(UNetConfig, self.diffusion_model.config)

    def image_tokens(self, vision_tokens: Tensor, device) -> Tensor:
        """[B, N, width] of the image encoder -> [B, queries, context width]. Raises ValueError for another encoder."""
        expected = self.image_proj_model.config.embedding_dim
        check_width(vision_tokens, expected, "CLIP_VISION gives tokens of", self.model_name, (1280, "CLIP ViT-H/14"))
        return self.image_proj_model(vision_tokens.to(device, self.get_dtype_inference()))

    def extra_conds(self, **kwargs):
        if VISION_TOKENS not in kwargs and IMAGE_TOKENS not in kwargs:
            raise ValueError(
                "The CONDITIONING contains no image. Use DynamiCrafter Conditioning for a DynamiCrafter model."
            )
        device, frames = kwargs["device"], len(kwargs["noise"])
        text = kwargs["cross_attn"][:, :TEXT_TOKENS].to(device)
        self.check_text(text)
        if IMAGE_TOKENS in kwargs:
            image = kwargs[IMAGE_TOKENS].to(device, text.dtype)
        else:
            image = self.image_tokens(kwargs[VISION_TOKENS], device).to(text.dtype)
        self.check_mode(kwargs.get(MODE, "animate"))
        check_size(kwargs["noise"].shape[-2:], self.factor)
        latents = kwargs[CONCAT_LATENTS]
        self.check_channels(latents.shape[1])
        if latents.ndim != 4:
            raise ValueError(f"The VAE gives latents of {latents.ndim} dimensions, and {self.model_name} expects 4.")
        if len(latents) != frames:
            raise ValueError(
                f"The CONDITIONING is for {len(latents)} frames, but the LATENT has {frames}. Use both outputs of one "
                "DynamiCrafter Conditioning."
            )
        latents = self.process_latent_in(_of_size(latents.to(device), *kwargs["noise"].shape[-2:]))
        fs = kwargs.get(FS)
        fs = self.sizes.default_fs if fs is None else fs
        return {
            "c_crossattn": ClipCondition(torch.cat([text, image], 1)),
            "c_concat": comfy.conds.CONDNoiseShape(latents),
            "fs": ClipCondition(torch.tensor([fs], device=device)),
        }

    @property
    def factor(self) -> int:
        """The sides of a latent must be multiples of this."""
        return 2 ** (len(self.sizes.channel_mult) - 1)

    def check_channels(self, channels: int) -> None:
        """Raise ValueError for latents of another VAE."""
        expected = self.latent_format.latent_channels
        if channels != expected:
            raise ValueError(
                f"The VAE gives latents of {channels} channels, and this {self.model_name} expects {expected}. Use the "
                "VAE of its checkpoint, or the one named on its help page."
            )

    def check_mode(self, mode: str) -> None:
        """Raise ValueError for a mode that the checkpoint was not trained for."""
        kind = self.kind
        if mode != "animate" and kind is not None and not kind.interpolates:
            raise ValueError(
                f"The checkpoint is of type {kind.name}, which does not support {mode}. Load 512_interp or "
                "ToonCrafter, or set model_type in Load DynamiCrafter."
            )


_variants: list[tuple[Callable[[UNetConfig], bool], type[DynamiCrafter]]] = []


def register_variant(matches: Callable[[UNetConfig], bool], model_class: type[DynamiCrafter]) -> None:
    """Load UNets whose sizes match as `model_class`."""
    if (matches, model_class) not in _variants:
        _variants.append((matches, model_class))


def model_class_of(sizes: UNetConfig) -> type[DynamiCrafter]:
    return next((model_class for matches, model_class in _variants if matches(sizes)), DynamiCrafter)


def _of_size(latents: Tensor, height: int, width: int) -> Tensor:
    """Latents [T, channels, h, w], resized as the host's SVD does: scaled to cover the size, and center-cropped."""
    if latents.shape[-2:] == (height, width):
        return latents
    return comfy.utils.common_upscale(latents, width, height, "bilinear", "center")


def parts_of(model: comfy.model_patcher.ModelPatcher) -> DynamiCrafter:
    """The model inside a MODEL, if it is one of ours. Raises ValueError with the name of what it is."""
    inner = model.model
    if not isinstance(inner, DynamiCrafter):
        raise ValueError(
            f"The MODEL is a {type(inner).__name__}; a DynamiCrafter model is expected. Load its checkpoint with Load "
            "DynamiCrafter; stock loaders load it as an image model."
        )
    return inner
