"""One self-attention call of a UNet: which images and which level it is for."""

from dataclasses import dataclass

from torch import Tensor

from .sampling_state import Misfit, SamplingState, batch_indices
from .unet_blocks import Layer


@dataclass(frozen=True)
class UNetCall:
    """conds: of its chunks of rows. images: rows of a chunk. indices: of them in the batch. height, width: in tokens.
    pixels: that a token spans. latent_size: (height, width) of the model's input."""

    conds: tuple[int, ...]
    images: int
    indices: tuple[int, ...]
    height: int
    width: int
    pixels: int
    latent_size: tuple[int, int]

    @property
    def tokens(self) -> int:
        return self.height * self.width

    @classmethod
    def read(cls, layer: Layer, q: Tensor, k: Tensor, options: dict, state: SamplingState) -> "UNetCall":
        """q, k: queries and keys [rows, tokens, channels]. Raises Misfit where another patch rearranged them."""
        conds = options["cond_or_uncond"]
        height, width = options["activations_shape"][-2:]
        if len(k) != len(q) or k.shape[1] != height * width or len(q) % len(conds):
            raise Misfit(
                f"another patch rearranges the {height} x {width} tokens of a level (queries {tuple(q.shape[:2])}, "
                f"keys {tuple(k.shape[:2])}, expected keys ({len(q)}, {height * width}))"
            )
        images = len(q) // len(conds)
        indices = batch_indices(options, images)
        if conflict := state.describe_other_images(indices, options):
            raise Misfit(conflict)
        latent_size = tuple(options["original_shape"][-2:])
        return cls(tuple(conds), images, indices, height, width, layer.pixels, latent_size)
