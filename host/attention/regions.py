"""Where in an image each character stands: there it reads its own tokens, and nowhere else.

Without regions, a frame with two characters reads the tokens of both everywhere, and their features mix. A region also
limits what a frame lends to others and what is recorded of it: the character without its background.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.attention.consistent import SharedTokens, tokens_in_mask
from .found_regions import FIND, FoundRegions
from .sampling_state import PatchConfig, SamplingState

REGIONS = "storyreel_regions"  # in transformer_options: the `Regions`

Part = tuple[frozenset[str], Tensor]  # characters, and the tokens [m] of an image that read them
Queries = Tensor | slice  # tokens of an image: some [m], or all


@dataclass(frozen=True, eq=False)
class Regions:
    """masks: [images or 1, H, W] of each character, 1 where it stands. found: regions of the characters without a mask.
    A character without either may be anywhere."""

    masks: dict[str, Tensor]
    found: FoundRegions | None = None
    _lent: dict[tuple, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _tokens: dict[tuple, Tensor] = field(default_factory=dict)
    _parts: dict[tuple, list[Part]] = field(default_factory=dict)

    def with_mask(self, character: str, mask: Tensor) -> "Regions":
        return Regions({**self.masks, character: mask})

    @property
    def known(self) -> bool:
        """Whether any region is."""
        return bool(self.masks) or self.found is not None and bool(self.found.maps)

    def begin_step(self, step: float) -> None:
        """Draws and found regions are those of this step of the run from now on."""
        self._lent.clear()
        if self.found is not None:
            self.found.begin_step(step)
            self._tokens.clear()
            self._parts.clear()

    def finish(self) -> None:
        """Warn about a finished run that found nobody."""
        if self.found is not None:
            self.found.finish()

    def check(self, images: int) -> None:
        """Raise ValueError for masks that do not fit a batch."""
        for character, mask in self.masks.items():
            if len(mask) not in (1, images):
                raise ValueError(
                    f"Character Region: the MASK of {character or 'the character'} has {len(mask)} images and the "
                    f"LATENT has {images}; one mask for all images or one mask per image is expected."
                )

    def tokens(self, character: str, index: int, size: tuple[int, int]) -> Tensor | None:
        """The tokens of a character in the image at a place of the batch, bool [N]; None = it may be anywhere.

        size: height, width in tokens.
        """
        mask = self.masks.get(character)
        if mask is None:
            return self._found(character, index, size)
        key = (character, index if len(mask) > 1 else 0, size)
        if key not in self._tokens:
            self._tokens[key] = tokens_in_mask(mask[key[1]][None].cpu(), *size)[0]
        return self._tokens[key]

    def _found(self, character: str, index: int, size: tuple[int, int]) -> Tensor | None:
        """A region that the run has found, without the masks of the other characters of the image."""
        tokens = None if self.found is None else self.found.tokens(character, index, size)
        if self.found is None or tokens is None:
            return None
        for name in self.found.characters(index) & self.masks.keys():
            tokens = tokens & ~self._known(name, index, size)
        return tokens

    def _known(self, character: str, index: int, size: tuple[int, int]) -> Tensor:
        tokens = self.tokens(character, index, size)
        return torch.ones(math.prod(size), dtype=torch.bool) if tokens is None else tokens

    def source(self, characters: frozenset[str], index: int, size: tuple[int, int]) -> Tensor | None:
        """The tokens that an image lends of any of these characters; None = all, for they may be anywhere."""
        kept = [torch.zeros(math.prod(size), dtype=torch.bool)]
        for name in sorted(characters):
            if (tokens := self.tokens(name, index, size)) is None:
                return None
            is_found = self.found is not None and name not in self.masks
            kept.append(self.found.keep(tokens, name, index) if self.found is not None and is_found else tokens)
        return torch.stack(kept).any(0)

    def lent(self, sample: Tensor, characters: frozenset[str], index: int, size: tuple[int, int]) -> Tensor:
        """Those of the drawn tokens [m] of an image that it lends of any of these characters."""
        key = (id(sample), characters, index, size)
        if key not in self._lent:  # with the sample, so that no other one gets its id
            source = self.source(characters, index, size)
            self._lent[key] = sample, sample if source is None else sample[source.to(sample.device)[sample]]
        return self._lent[key][1]

    def parts(self, characters: frozenset[str], index: int, size: tuple[int, int], device: torch.device) -> list[Part]:
        """The image in parts, each with the characters that it reads; none if all of it reads all of them.

        characters: that the image shows. Others as in `tokens`. The layers of a level ask for the same parts.
        """
        key = (characters, index, size, device)
        if key not in self._parts:
            known = any(self.tokens(name, index, size) is not None for name in characters)
            parts = self._split(sorted(characters), index, size, device) if known else []
            self._parts[key] = [] if [names for names, _ in parts] == [characters] else parts
        return self._parts[key]

    def _split(self, names: Sequence[str], index: int, size: tuple[int, int], device: torch.device) -> list[Part]:
        inside = torch.stack([self._known(name, index, size) for name in names], 1)
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


def begin_regions(options: dict, config: PatchConfig, state: SamplingState, guider, noise: Tensor) -> Regions | None:
    """The regions of a sampling run; None without any. Raises ValueError for masks that do not fit its batch."""
    given, find = options.get(REGIONS), options.get(FIND)
    if given is not None:
        given.check(len(noise))
    if find is None:
        return given and Regions(given.masks)
    return Regions(given.masks if given else {}, FoundRegions.begin(find, config, state, guider, noise.shape[-2:]))


def split_reads(
    regions: Regions,
    config: PatchConfig,
    shared: SharedTokens,
    frames: Sequence[int],
    indices: Sequence[int],
    size: tuple[int, int],
    device: torch.device,
) -> dict[int, list[tuple[Queries, SharedTokens]]]:
    """{row: its parts, each with what it reads} of the rows that read less than `shared` somewhere.

    frames, indices: story frame of each row, and its place in the batch. size: height, width of the level in tokens.
    """
    cast = config.cast if any(group.sources for group in shared.groups) else None
    split = {}
    for row, index in enumerate(indices):

        def only(names: frozenset[str], images: Collection[int] | None, row: int = row) -> SharedTokens:
            def lent(sample: Tensor, source: int) -> Tensor:
                if cast is None:
                    return sample
                common = (names & cast[frames[source]]) - config.read_names
                return regions.lent(sample, common, indices[source], size)

            return only_rows(shared, [row], images, lent)

        shown = config.bank_characters(frames[row]) if cast is None else cast[frames[row]]
        if parts := regions.parts(shown, index, size, device):
            split[row] = [(tokens, only(names, config.bank_images_of(names))) for names, tokens in parts]
        elif cast is not None and shown:
            split[row] = [(slice(None), only(shown, None))]
    return split


def only_rows(
    shared: SharedTokens,
    rows: Collection[int],
    images: Collection[int] | None = None,
    lent: Callable[[Tensor, int], Tensor] = lambda sample, source: sample,
) -> SharedTokens:
    """What some rows read. images: of a bank, to which that is limited; None = all. lent: of a sample of a source row,
    what is read."""
    pairs = []
    for group, sample in zip(shared.groups, shared.samples, strict=True):
        targets = {row: weight for row, weight in group.targets.items() if row in rows}
        stored = tuple(image for image in group.stored if images is None or image in images)
        if targets:
            read = [lent(own, source) for own, source in zip(sample, group.sources, strict=True)]
            pairs.append((replace(group, targets=targets, stored=stored), read))
    return SharedTokens([group for group, _ in pairs], [sample for _, sample in pairs])
