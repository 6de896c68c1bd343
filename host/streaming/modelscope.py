"""ModelScope's text-to-video, MS-Vid2Vid and StreamingT2V as models of the host: frames are the batch axis of a latent.

StreamingT2V reads CAM_FRAMES and ANCHOR_EMBEDS from the CONDITIONING; the networks that encode them are part of the
MODEL.
"""

from typing import cast

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.ops
import comfy.supported_models_base
from torch import Tensor

from ...core.diffusion import prediction, refinement
from ...core.networks.modelscope.config import UNetConfig
from ...core.networks.modelscope.unet import UNet
from ...core.networks.streaming import model as networks
from ...core.networks.streaming.appearance import TokenExpander
from ...core.networks.streaming.config import StreamingConfig
from ...core.networks.unet import UNetSizes
from ..common import messages
from ..common.ops import host_ops
from ..common.video_model import ClipCondition, ClipModel, HostNetwork, check_frames, check_width, refuse_windows

CAM_FRAMES = "storyreel_cam_frames"  # [M, H, W, 3], 0 to 1: those before the chunk, which its first M repeat
CAM_STRENGTH = "storyreel_cam_strength"  # 1 if absent; 0 is the model without CAM
ANCHOR_EMBEDS = "storyreel_anchor_embeds"  # [1, frames, width]: the image encoder's projection of one or more frames
APM_STRENGTH = "storyreel_apm_strength"  # 1 if absent; 0 is the model without APM


class HostUNet(HostNetwork, UNet):
    """The UNet, called by the host."""

    def forward(self, x, timesteps, context, transformer_options, control=None, **kwargs):
        return self.forward_rows(x, timesteps, context, transformer_options)


class HostStreamingUNet(HostNetwork, networks.StreamingT2V):
    """StreamingT2V's networks, called by the host. The names of weights that both have are those of `HostUNet`."""

    def forward(
        self,
        x,
        timesteps,
        context,
        transformer_options,
        image=None,
        frame_features=None,
        cam_strength=1.0,
        apm_strength=1.0,
        control=None,
        **kwargs,
    ):
        """image [B, tokens, width]: APM's. frame_features [(B M), channels, h, w]: from CAM's frame encoder."""
        inputs = image, frame_features, cam_strength, apm_strength
        return self.forward_rows(x, timesteps, context, transformer_options, *inputs)


class RefinementSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """MS-Vid2Vid's schedule in the host's units. As published, the denoised clip is computed at the nearest
    timestep.

    start: the sigma at which sampling begins with the clip scaled by the noise of its timestep, as published. None: no
        scaling, which is correct.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, start: float | None = None):
        super().__init__()
        signal, noise = refinement.signal_and_noise()
        self.register_buffer("signal", signal.float(), persistent=False)
        self.register_buffer("noise", noise.float(), persistent=False)
        self.set_sigmas((-refinement.log_snr() / 2).exp())
        self.start = start

    def calculate_denoised(self, sigma, model_output, model_input):
        shape = (-1, *[1] * (model_output.ndim - 1))
        time = self.timestep(sigma).reshape(-1).to(self.signal.device)
        signal, noise = (table[time].reshape(shape).to(model_output.device) for table in (self.signal, self.noise))
        return prediction.x0_of_v(self.calculate_input(sigma, model_input), model_output, signal, noise)

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        clip = super().noise_scaling(sigma, noise, latent_image, max_denoise)
        if self.start is None or abs(float(sigma.max()) / self.start - 1) > 1e-4:
            return clip
        return clip * self.noise[int(self.timestep(sigma.max().cpu()))].to(clip.device)


def lora_unet_config(sizes: UNetSizes) -> dict:
    """The spatial part of the network as the host's unet_config, by which the host maps diffusers' LoRA keys."""
    has = [int(transforms) for transforms in sizes.attention]  # one transformer each, as Stable Diffusion 2's
    return {
        "num_res_blocks": [sizes.num_res_blocks] * len(has),
        "channel_mult": list(sizes.channel_mult),
        "transformer_depth": [depth for depth in has for _ in range(sizes.num_res_blocks)],
        "transformer_depth_output": [depth for depth in has for _ in range(sizes.num_res_blocks + 1)],
        "transformer_depth_middle": 1,
    }


class ModelScopeConfig(comfy.supported_models_base.BASE):
    """How the host sees a checkpoint. expander: sizes of APM's token expander, see `read_token_expander`.

    latents: their format, None for Stable Diffusion's. v_prediction: velocity under the same noise schedule.
    """

    unet_extra_config = {}
    memory_usage_factor = 2.0

    def __init__(
        self,
        sizes: UNetConfig | StreamingConfig,
        expander: dict | None = None,
        latents: comfy.latent_formats.LatentFormat | None = None,
        v_prediction: bool = False,
    ):
        super().__init__({"sizes": sizes})
        self.expander, self.v_prediction = expander, v_prediction
        self.latent_format = latents or comfy.latent_formats.SD15()


class ModelScope(ClipModel):
    """The text-to-video model; with extra rows of padding MS-Vid2Vid, which predicts velocity."""

    model_name = "ModelScope text-to-video"
    kind = None  # set by the loader

    def __init__(self, config: ModelScopeConfig, device=None, unet_model: type[HostNetwork] = HostUNet):
        types, sizes = comfy.model_base.ModelType, config.unet_config["sizes"]
        refines = isinstance(sizes, UNetConfig) and sizes.extra_rows > 0
        predicts = types.V_PREDICTION if refines or config.v_prediction else types.EPS
        super().__init__(config, predicts, device=device, unet_model=unet_model)
        config.unet_config |= lora_unet_config(self.sizes)
        self.node = messages.current_node()
        if refines:
            self.model_name, self.model_sampling = "MS-Vid2Vid", RefinementSampling()

    def extra_conds(self, **kwargs) -> dict[str, comfy.conds.CONDRegular]:
        text = kwargs["cross_attn"].to(kwargs["device"])
        if len(text) != 1:
            raise ValueError(f"The CONDITIONING holds {len(text)} prompts; {self.model_name} expects 1.")
        self.check_text(text)
        return {"c_crossattn": ClipCondition(text)}


class StreamingT2V(ModelScope):
    """ModelScope's UNet with CAM and APM. Without frames and an anchor it generates a first chunk."""

    model_name = "StreamingT2V"

    def __init__(self, config: ModelScopeConfig, device=None):
        super().__init__(config, device, HostStreamingUNet)
        dtype = config.unet_config["dtype"]
        layers = comfy.ops.pick_operations(dtype, config.manual_cast_dtype)
        expander = TokenExpander(**(config.expander or {}), ops=host_ops(layers, device, dtype))
        self.expander = expander.requires_grad_(False)
        comfy.model_management.archive_model_dtypes(self.expander)

    def extra_conds(self, **kwargs):
        conds, device = super().extra_conds(**kwargs), kwargs["device"]
        text, tokens = conds["c_crossattn"].cond, self.network.streaming.text_tokens
        if text.shape[1] > tokens:
            messages.warn(
                f"{self.model_name} reads the first {tokens} tokens of a prompt; this one has {text.shape[1]}.",
                self.node,
            )
            conds["c_crossattn"] = ClipCondition(text[:, :tokens])
        frames, cam_strength = kwargs.get(CAM_FRAMES), kwargs.get(CAM_STRENGTH, 1.0)
        if frames is not None and cam_strength:
            check_frames(frames, kwargs["noise"])
            conds["frame_features"] = ClipCondition(self.encode_frames(frames.to(device)))
            conds["cam_strength"] = comfy.conds.CONDConstant(cam_strength)
        embeds, apm_strength = kwargs.get(ANCHOR_EMBEDS), kwargs.get(APM_STRENGTH, 1.0)
        if embeds is not None and apm_strength:
            conds["image"] = ClipCondition(self.image_tokens(embeds.to(device)))
            conds["apm_strength"] = comfy.conds.CONDConstant(apm_strength)
        return conds

    @property
    def network(self) -> HostStreamingUNet:
        return cast(HostStreamingUNet, self.diffusion_model)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """CAM's features of frames [M, H, W, 3], 0 to 1, once a chunk: [M, channels, H / 8, W / 8]."""
        pixels = (frames.movedim(-1, 1) * 2 - 1).to(self.get_dtype_inference())
        return self.network.encode_frames(pixels[None])

    def image_tokens(self, embeds: Tensor) -> Tensor:
        """[1, frames, width] -> APM's [1, tokens, context width]. Raises ValueError for another encoder's embeds."""
        expected = self.model_config.expander["dim"]
        check_width(embeds, expected, "CLIP_VISION projects to", self.model_name, (1024, "CLIP ViT-H/14"))
        return self.expander(embeds.to(self.get_dtype_inference()))

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=()):
        if cond_key == "frame_features":
            refuse_windows(self.model_name, window)
        return super().resize_cond_for_context_window(cond_key, cond_value, window, x_in, device, retain_index_list)
