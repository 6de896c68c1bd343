"""The encoder that a score is computed with: the linked CLIP_VISION and CLIP, or one in a folder of the user."""

from typing import Protocol

import torch
from torch import Tensor

from ..common import huggingface, messages
from ..common.huggingface import ImageEncoder
from . import open_clip
from .features import embed_images, embed_prompts, in_parts, name_of, name_of_sizes


class Encoder(Protocol):
    """Embeds images, and prompts if it has a text encoder.

    name: in reports. source: the input that it comes from. architecture: "CLIP ViT-L/14", or another one in words.
    width: of the embeddings.
    """

    name: str
    source: str
    architecture: str
    width: int | None

    def no_text(self) -> str | None:
        """Why it cannot embed prompts, or None: see `Entry.needs`."""

    def embed_images(self, images: Tensor) -> Tensor:
        """[F, d] of images [F, H, W, 3]."""
        ...

    def embed_prompts(self, prompts: tuple[str, ...]) -> Tensor:
        """[F, d]. Raises ValueError for a text encoder that does not fit."""
        ...


class LinkedEncoder:
    """CLIP_VISION, and CLIP or None, of the host."""

    source = "clip_vision"

    def __init__(self, clip_vision, clip):
        self._clip_vision, self._clip = clip_vision, clip
        self.name = self.architecture = name_of(clip_vision)
        self.width = clip_vision.config.get("projection_dim", clip_vision.config.get("hidden_size"))

    def no_text(self) -> str | None:
        return "needs the text encoder at clip." if self._clip is None else None

    def embed_images(self, images: Tensor) -> Tensor:
        return embed_images(self._clip_vision, images)

    def embed_prompts(self, prompts: tuple[str, ...]) -> Tensor:
        return embed_prompts(self._clip, prompts, self.width)


class TransformersEncoder:
    """The images of a folder's network; it has no text encoder."""

    source = "encoder_folder"

    def __init__(self, network: ImageEncoder):
        self._network = network
        self.architecture = name_of_sizes(network.model_type, network.sizes)
        self.name = f"{self.architecture} ({network.name}, by transformers)"
        self.width = network.embed_dim

    def no_text(self) -> str:
        return f"needs a text encoder, and {self._network.name} has none: choose a folder of open_clip."

    def embed_images(self, images: Tensor) -> Tensor:
        return torch.cat([self._network.encode(part)[0] for part in in_parts(images)])

    def embed_prompts(self, prompts: tuple[str, ...]) -> Tensor:
        raise ValueError(self.no_text())


def encoder_folders() -> list[str]:
    """The folders inside models/clip_vision that hold an encoder."""
    return sorted({*huggingface.encoder_folders(), *open_clip.encoder_folders()})


def load_encoder(folder: str | None, clip_vision, clip) -> Encoder | None:
    """The encoder in the folder, or the linked one if there is no folder; None if there is neither.

    A folder with files for both packages is loaded by open_clip, since that reads prompts as well. Raises as
    `huggingface.load_image_encoder` and `open_clip.load`.
    """
    if folder is None:
        return None if clip_vision is None else LinkedEncoder(clip_vision, clip)
    if clip_vision is not None or clip is not None:
        messages.warn(
            f"clip_vision and clip have no effect, since encoder_folder is {folder}; set it to none for them."
        )
    if folder in open_clip.encoder_folders():
        return open_clip.load(folder)
    return TransformersEncoder(huggingface.load_image_encoder(folder))
