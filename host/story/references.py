"""Reference images of a story's characters, for models that edit images.

An editing model reads the latents of reference images beside the prompt. The host keeps one list of them for all rows
of a batch, so frames with different characters are drawn one at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.bank_model import network_of
from ..attention.families import family_of

MULTIPLE = 16  # of the sides of a reference image, in pixels: patches of 2 latent pixels


@dataclass(frozen=True, eq=False)
class References:
    """images: [n, H, W, 3] of each character, by its name."""

    images: Mapping[str, Tensor] = field(default_factory=dict)

    def with_images(self, character: str, images: Tensor) -> "References":
        """Raises ValueError for a character that has images already."""
        if character in self.images:
            raise ValueError(
                f"references holds images of {character or 'the character'} already; put all images of a character "
                "into one batch."
            )
        return References({**self.images, character: images})


def reads_references(model: ModelPatcher) -> bool:
    """Whether there are editing models of the MODEL's class."""
    family = family_of(model)
    rope = family.rope(model.get_model_object("diffusion_model")) if family else None
    return rope is not None and rope.reference is not None


def check_reads_references(model: ModelPatcher) -> None:
    """Raise ValueError for a MODEL that no reference image reaches."""
    if not reads_references(model):
        family = family_of(model)
        raise ValueError(
            f"MODEL is {family.name if family else network_of(model)}, which reads no reference images; an editing "
            "model is expected: Flux.1 Kontext, Flux.2, Qwen-Image-Edit or Krea 2."
        )


def at_most(images: Tensor, width: int, height: int) -> list[Tensor]:
    """Each image [1, h, w, 3] of a batch. One with more pixels than width x height is made smaller, as the host's
    templates do it for editing models."""
    tall, wide = images.shape[1:3]
    scale = (width * height / (wide * tall)) ** 0.5
    if scale < 1:
        wide, tall = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (wide, tall))
        pixels: Tensor = comfy.utils.common_upscale(images[..., :3].movedim(-1, 1), wide, tall, "area", "disabled")
        images = pixels.movedim(1, -1)
    return [images[number : number + 1, ..., :3] for number in range(len(images))]
