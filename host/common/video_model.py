"""What the pack's video models share in the host: frames are the batch axis of a latent, one clip each for cond and
uncond.
"""

import contextlib
from typing import Any, cast

import comfy.conds
import comfy.model_base
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from einops import rearrange
from torch import Tensor, nn

from ...core.networks.ops import Ops
from ...core.networks.unet import UNetSizes


class HostAttention:
    """The host's attention, with the transformer_options of the current forward pass."""

    def __init__(self):
        self.options: dict = {}

    @contextlib.contextmanager
    def use(self, options: dict):
        """Use these transformer_options within the context."""
        self.options = options
        try:
            yield
        finally:
            self.options = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return optimized_attention(q, k, v, heads, transformer_options=self.options)


class HostNetwork(nn.Module):
    """Mixin, first base of a video network: gives it the interface of the host's diffusion models, in which rows are
    frames, clip after clip."""

    def __init__(self, sizes, device=None, dtype=None, operations=None):
        attention = HostAttention()
        super().__init__(sizes, ops=Ops(operations, attention, device, dtype))
        self.attention, self.dtype = attention, dtype

    def forward_rows(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict, *inputs) -> Tensor:
        """x [(B T), channels, h, w], timesteps [(B T)], context [B, tokens, width] -> [(B T), ...]. inputs: further
        inputs of the network."""
        clips = len(context)
        clip = rearrange(x, "(b t) c h w -> b c t h w", b=clips)
        times = rearrange(timesteps, "(b t) -> b t", b=clips)[:, 0]  # all frames of a clip have the same
        with self.attention.use(transformer_options):
            out = super().forward(clip, times, context, *inputs)
        return rearrange(out, "b c t h w -> (b t) c h w")


class ClipCondition(comfy.conds.CONDRegular):
    """A condition of a whole clip: its rows are not frames."""

    def process_cond(self, batch_size, **kwargs):
        return self._copy_with(self.cond)


class ClipModel(comfy.model_base.BaseModel):
    """A model whose text, "c_crossattn", is a `ClipCondition` of one row. model_name: its name in error messages."""

    model_name = ""

    def __init__(
        self,
        config: comfy.supported_models_base.BASE,
        kind: comfy.model_base.ModelType,
        device,
        unet_model: type[HostNetwork],
    ):
        super().__init__(config, kind, device=device, unet_model=cast(Any, unet_model))  # the host knows its own alone

    @property
    def sizes(self) -> UNetSizes:
        return cast(UNetSizes, self.diffusion_model.config)

    def check_text(self, text: Tensor) -> None:
        """Raise ValueError for the text [1, tokens, width] of another encoder."""
        check_width(text, self.sizes.context_dim, "CLIP gives text of", self.model_name, (1024, "that of SD2.x"))

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=()):
        # Conditions of a clip apply to the frames of any window: the window's first frame counts as their first.
        return cond_value if isinstance(cond_value, ClipCondition) else None

    def _apply_model(
        self, x, t, c_concat=None, c_crossattn: Any = None, control=None, transformer_options: Any = None, **kwargs
    ):
        if control is not None:
            raise ValueError(f"{self.model_name} does not support ControlNet. Apply ControlNet to image models only.")
        clips = len(c_crossattn)
        window = transformer_options.get("context_window")
        anchor = getattr(window, "causal_anchor_index", None)
        if anchor is None or anchor < 0:
            return super()._apply_model(x, t, c_concat, c_crossattn, None, transformer_options, **kwargs)
        # The host puts a frame before the window, for models whose first frame is special, and drops its result. Here
        # that frame would shift every frame to the conditions of another.
        x, t, c_concat = (
            None if part is None else part.unflatten(0, (clips, -1))[:, 1:].flatten(0, 1) for part in (x, t, c_concat)
        )
        denoised = super()._apply_model(x, t, c_concat, c_crossattn, None, transformer_options, **kwargs)
        denoised = denoised.unflatten(0, (clips, -1))
        return torch.cat([torch.zeros_like(denoised[:, :1]), denoised], 1).flatten(0, 1)


def check_width(tokens: Tensor, expected: int, given: str, model_name: str, published: tuple[int, str]) -> None:
    """Raise ValueError for tokens [..., width] of another width than a checkpoint was trained on.

    given: start of the sentence. published: (width of published checkpoints, the encoder's name).
    """
    if tokens.shape[-1] != expected:
        width, whose = published
        raise ValueError(
            f"The {given} width {tokens.shape[-1]}, and this {model_name} checkpoint was trained on width {expected}"
            + (f" ({whose})." if expected == width else ".")
        )


def check_size(size, factor: int) -> None:
    """Raise ValueError for a latent of this height and width, unless both are multiples of `factor`."""
    if any(side % factor for side in size):
        sides = " x ".join(str(side * 8) for side in reversed(size))
        raise ValueError(f"The LATENT is {sides} pixels. Width and height must be multiples of {factor * 8}.")


def check_frames(frames: Tensor, noise: Tensor) -> None:
    """Raise ValueError for CAM's frames [M, H, W, 3] that do not fit the chunk [T, channels, h, w]."""
    count, _, height, width = noise.shape
    if frames.shape[1:3] != (8 * height, 8 * width) or len(frames) > count:
        raise ValueError(
            f"CAM reads {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} pixels, but the LATENT has "
            f"{count} frames of {8 * width} x {8 * height}."
        )


def refuse_windows(model_name: str, window) -> None:
    """Raise ValueError for any context window but the first, whose preceding frames CAM does not have."""
    if window.index_list[0] > 0:
        raise ValueError(
            "CAM reads the frames before a chunk and does not work with context windows. Sample "
            f"{model_name} without context windows, or set cam_strength to 0."
        )
