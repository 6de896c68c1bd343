"""Where in an image each character stands: there it reads its own tokens of a bank, and nowhere else.

Without regions, a frame with two characters reads the tokens of both everywhere, and their features mix.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.attention.consistent import SharedTokens, tokens_in_mask

REGIONS = "storyreel_regions"  # in transformer_options: the `Regions`

Part = tuple[frozenset[str], Tensor]  # characters, and the tokens [m] of an image that read them


@dataclass(frozen=True, eq=False)
class Regions:
    """masks: [images or 1, H, W] of each character, 1 where it stands. A character without a mask may be anywhere."""

    masks: dict[str, Tensor]
    _tokens: dict[tuple, Tensor] = field(default_factory=dict)
    _parts: dict[tuple, list[Part]] = field(default_factory=dict)

    def with_mask(self, character: str, mask: Tensor) -> "Regions":
        return Regions({**self.masks, character: mask})

    def check(self, images: int) -> None:
        """Raise ValueError for masks that do not fit a batch."""
        for character, mask in self.masks.items():
            if len(mask) not in (1, images):
                raise ValueError(
                    f"Character Region: the MASK of {character or 'the character'} has {len(mask)} images and the "
                    f"LATENT has {images}; one mask for all images or one mask per image is expected."
                )

    def tokens(self, character: str, index: int, size: tuple[int, int]) -> Tensor:
        """The tokens of a character in the image at a place of the batch, bool [N]. size: height, width in tokens."""
        mask = self.masks[character]
        key = (character, index if len(mask) > 1 else 0, size)
        if key not in self._tokens:
            self._tokens[key] = tokens_in_mask(mask[key[1]][None].cpu(), *size)[0]
        return self._tokens[key]

    def source(self, characters: frozenset[str], index: int, size: tuple[int, int]) -> Tensor | None:
        """The tokens in the region of any of these characters; None = they may be anywhere."""
        masked = [self.tokens(name, index, size) for name in sorted(characters & self.masks.keys())]
        return torch.stack(masked).any(0) if masked and characters <= self.masks.keys() else None

    def parts(self, characters: frozenset[str], index: int, size: tuple[int, int], device: torch.device) -> list[Part]:
        """The image in parts, each with the characters that it reads; none if all of it reads all of them.

        characters: that the image shows. Others as in `tokens`. The layers of a level ask for the same parts.
        """
        key = (characters, index, size, device)
        if key not in self._parts:
            parts = self._split(sorted(characters), index, size, device) if characters & self.masks.keys() else []
            self._parts[key] = [] if [names for names, _ in parts] == [characters] else parts
        return self._parts[key]

    def _split(self, names: Sequence[str], index: int, size: tuple[int, int], device: torch.device) -> list[Part]:
        everywhere = torch.ones(size[0] * size[1], dtype=torch.bool)
        inside = torch.stack([self.tokens(n, index, size) if n in self.masks else everywhere for n in names], 1)
        patterns, which = inside.unique(dim=0, return_inverse=True)
        return [
            (
                frozenset(name for name, reads in zip(names, pattern, strict=True) if reads),
                (which == i).nonzero()[:, 0].to(device),
            )
            for i, pattern in enumerate(patterns.tolist())
        ]


def set_region(model: ModelPatcher, character: str, mask: Tensor) -> ModelPatcher:
    """A clone of a MODEL that knows where a character stands. A second mask of a character replaces the first."""
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    options[REGIONS] = options.get(REGIONS, Regions({})).with_mask(character, mask)
    return patched


def only_rows(shared: SharedTokens, rows: Collection[int], images: Collection[int] | None = None) -> SharedTokens:
    """What some rows read. images: of a bank, to which that is limited; None = all."""
    pairs = []
    for group, sample in zip(shared.groups, shared.samples, strict=True):
        targets = {row: weight for row, weight in group.targets.items() if row in rows}
        stored = tuple(image for image in group.stored if images is None or image in images)
        if targets:
            pairs.append((replace(group, targets=targets, stored=stored), sample))
    return SharedTokens([group for group, _ in pairs], [sample for _, sample in pairs])
