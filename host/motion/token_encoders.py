"""Token encoders: from images to the tokens that a motion is made of. IP-Adapter's is in `ip_adapter`."""

from dataclasses import dataclass
from typing import Protocol

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.motion import trajectory
from ..common import messages
from ..common.clip_vision import GRAY, vision_tokens
from ..common.huggingface import ImageEncoder
from ..dynamicrafter.model import parts_of


class TokenEncoder(Protocol):
    """Encodes images as tokens.

    name: for messages. token_space: see `Trajectory`. shape: (tokens of a frame, their width). frames_per_image: 1, or
    the number of frames for which an image has different tokens. reads_clip_vision: else the encoder has a network of
    its own.
    """

    @property
    def name(self) -> str: ...

    @property
    def token_space(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def frames_per_image(self) -> int: ...

    @property
    def reads_clip_vision(self) -> bool: ...

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
    reads_clip_vision: bool = True

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


@dataclass(frozen=True)
class FolderTokenEncoder:
    """All tokens of an image encoder in a local Hugging Face folder, which needs no CLIP_VISION."""

    network: ImageEncoder
    frames_per_image: int = 1
    reads_clip_vision: bool = False

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def token_space(self) -> str:
        return "dinov2" if self.network.model_type == "dinov2" else "clip"

    @property
    def shape(self) -> tuple[int, int]:
        return self.network.token_count, self.network.token_dim

    def encode(self, clip_vision, images: Tensor, frames: int) -> Tensor:
        """[K, N, D], the class token first: see `ImageEncoder.encode`."""
        tokens = [self.network.encode(image)[1] for image in images.split(1)]
        return torch.cat(tokens).to(comfy.model_management.intermediate_device())

    def uncond(self, clip_vision) -> None:
        return None


def check_clip_vision(encoder: TokenEncoder, clip_vision) -> None:
    """Raise ValueError if the encoder reads features of a CLIP_VISION and there is none. Warn if it reads none."""
    if encoder.reads_clip_vision and clip_vision is None:
        raise ValueError(f"clip_vision is empty, and {encoder.name} reads its features; connect CLIP ViT-H/14.")
    if not encoder.reads_clip_vision and clip_vision is not None:
        messages.warn(f"clip_vision has no effect, since the tokens come from the image encoder {encoder.name}.")
