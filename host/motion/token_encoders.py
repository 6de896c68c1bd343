"""Token encoders: from images to the tokens that a motion is made of. IP-Adapter's is in `ip_adapter`."""

from dataclasses import dataclass
from typing import Protocol

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.motion import trajectory
from ..common.clip_vision import GRAY, vision_tokens
from ..dynamicrafter.model import parts_of


class TokenEncoder(Protocol):
    """Encodes images as tokens.

    name: for messages. token_space: see `Trajectory`. shape: (tokens of a frame, their width). frames_per_image: 1, or
    the number of frames for which an image has different tokens.
    """

    @property
    def name(self) -> str: ...

    @property
    def token_space(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def frames_per_image(self) -> int: ...

    def encode(self, clip_vision, images: Tensor, frames: int) -> Tensor:
        """Tokens of images [K, H, W, 3]: [K, N, D], or [K, L, N, D] if each of the L frames has its own."""
        ...

    def uncond(self, clip_vision) -> Tensor | None:
        """Tokens [N, D] of no image, if the encoder has them."""
        ...


@dataclass(frozen=True)
class DynamiCrafterTokenEncoder:
    """The image tokens of a DynamiCrafter checkpoint, which differ from frame to frame."""

    model: ModelPatcher
    token_space: str = "dynamicrafter"

    @property
    def name(self) -> str:
        kind = parts_of(self.model).kind
        return "DynamiCrafter" + (f" {kind.name}" if kind is not None else "")

    @property
    def shape(self) -> tuple[int, int]:
        inner = parts_of(self.model)
        return inner.sizes.image_tokens, inner.image_proj_model.config.output_dim

    @property
    def frames_per_image(self) -> int:
        return parts_of(self.model).image_proj_model.config.queries // self.shape[0]

    def encode(self, clip_vision, images: Tensor, frames: int) -> Tensor:
        """[K, L, N, D]. A shot of another length than the checkpoint's is sampled at even steps."""
        comfy.model_management.load_model_gpu(self.model)
        inner = parts_of(self.model)
        encoded = []
        for image in images.split(1):
            # Encoded next to the gray uncond image, as the conditioning does: rounding depends on the batch size.
            features = vision_tokens(clip_vision, torch.cat([image, torch.full_like(image, GRAY)]))[:1]
            tokens = inner.image_tokens(features, self.model.load_device)[0]
            encoded.append(tokens.unflatten(0, (-1, self.shape[0])))
        sampled = torch.stack(encoded)[:, trajectory.spread_evenly(frames, self.frames_per_image)]
        return sampled.float().to(comfy.model_management.intermediate_device())

    def uncond(self, clip_vision) -> None:
        return None
