"""What video models of ours have in common in the host: frames are the batch axis of a latent, one clip a half of
guidance.
"""

import contextlib

import comfy.conds
import comfy.model_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...core.networks.blocks import fold, unfold
from ...core.networks.ops import Ops
from ...core.networks.unet import UNetSizes


class Attention:
    """The host's attention, with the options of the forward pass under way."""

    def __init__(self):
        self.options: dict = {}

    @contextlib.contextmanager
    def under(self, options: dict):
        """For the time of a forward pass with these transformer_options."""
        self.options = options
        try:
            yield
        finally:
            self.options = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return optimized_attention(q, k, v, heads, transformer_options=self.options)


class HostNetwork:
    """Goes before a network of ours, which it puts behind the interface of the host's diffusion models: rows are
    frames, clip after clip."""

    def __init__(self, sizes, device=None, dtype=None, operations=None):
        attention = Attention()
        super().__init__(sizes, ops=Ops(operations, attention, device, dtype))
        self.attention, self.dtype = attention, dtype

    def of_rows(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict, *told) -> Tensor:
        """x [(B T), channels, h, w], timesteps [(B T)], context [B, tokens, width] -> [(B T), ...]. told: whatever else
        the network takes."""
        clips = len(context)
        with self.attention.under(transformer_options):
            return fold(super().forward(unfold(x, clips), first_of_each(timesteps, clips), context, *told))


def first_of_each(rows: Tensor, clips: int) -> Tensor:
    """[(B T), ...] -> [B, ...]: of what all frames of a clip share."""
    return rows.unflatten(0, (clips, -1))[:, 0]


class ClipCondition(comfy.conds.CONDRegular):
    """A condition of a whole clip: its rows are not frames."""

    def process_cond(self, batch_size, **kwargs):
        return self._copy_with(self.cond)


class ClipModel(comfy.model_base.BaseModel):
    """A model whose text, "c_crossattn", is a `ClipCondition` of one row. named: what refusals call it."""

    named = ""

    @property
    def sizes(self) -> UNetSizes:
        return self.diffusion_model.config

    def check_text(self, text: Tensor) -> None:
        """Raise ValueError for the text [1, tokens, width] of another encoder."""
        check_width(text, self.sizes.context_dim, "CLIP gives text of", self.named, (1024, "that of SD2.x"))

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=()):
        # Conditions of a clip belong to whatever frames the window holds: its first frame is the first to them.
        return cond_value if isinstance(cond_value, ClipCondition) else None

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        if control is not None:
            raise ValueError(f"{self.named} takes no ControlNet; apply it to picture models only.")
        clips = len(c_crossattn)
        window = transformer_options.get("context_window")
        anchor = getattr(window, "causal_anchor_index", None)
        if anchor is None or anchor < 0:
            return super()._apply_model(x, t, c_concat, c_crossattn, None, transformer_options, **kwargs)
        # The host puts a frame before the window, for models whose first frame is special, and drops its result. Here
        # it would shift every frame to another one's conditions.
        x, t, c_concat = (
            None if part is None else part.unflatten(0, (clips, -1))[:, 1:].flatten(0, 1) for part in (x, t, c_concat)
        )
        denoised = super()._apply_model(x, t, c_concat, c_crossattn, None, transformer_options, **kwargs)
        denoised = denoised.unflatten(0, (clips, -1))
        return torch.cat([torch.zeros_like(denoised[:, :1]), denoised], 1).flatten(0, 1)


def check_width(tokens: Tensor, expected: int, given: str, named: str, published: tuple[int, str]) -> None:
    """Raise ValueError for tokens [..., width] of another width than a checkpoint was trained on.

    given: who gives them and how, as the sentence begins. published: the width in published checkpoints, and whose.
    """
    if tokens.shape[-1] != expected:
        width, whose = published
        raise ValueError(
            f"The {given} width {tokens.shape[-1]}, and this {named} checkpoint was trained on width {expected}"
            + (f" ({whose})." if expected == width else ".")
        )


def check_size(size, factor: int) -> None:
    """Raise ValueError for a latent of this height and width, unless both are multiples of `factor`."""
    if any(side % factor for side in size):
        sides = " x ".join(str(side * 8) for side in reversed(size))
        raise ValueError(f"The LATENT is {sides} pixels; sides that are multiples of {factor * 8} are expected.")


def check_frames(frames: Tensor, noise: Tensor) -> None:
    """Raise ValueError for CAM's frames [M, H, W, 3] that are not of the chunk [T, channels, h, w]."""
    count, _, height, width = noise.shape
    if frames.shape[1:3] != (8 * height, 8 * width) or len(frames) > count:
        raise ValueError(
            f"CAM is shown {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} pixels, and the LATENT is a "
            f"chunk of {count} frames of {8 * width} x {8 * height}."
        )


def refuse_windows(named: str, window) -> None:
    """Raise ValueError for a context window that CAM's frames do not come before: any but the first."""
    if window.index_list[0] > 0:
        raise ValueError(
            "CAM is shown the frames before a chunk, and a context window cuts the chunk in parts; sample "
            f"{named} without context windows, or without CAM."
        )
