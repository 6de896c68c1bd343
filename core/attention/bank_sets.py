"""Banks side by side: what is in one, in a line, and several made one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..text import short
from .bank import Bank, Recording, merge

MOST_NAMES = 8


def describe(bank: Bank) -> str:
    """The characters, images and size of a bank, in a line."""
    names = [short(name, 40) if name else "unnamed" for name in sorted(bank.characters)]
    listed = ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if (rest := len(names) - MOST_NAMES) > 0 else "")
    count = len(bank.images)
    networks = ", ".join(sorted({short(recording.origin.network, 40) for recording in bank.recordings}))
    images = f"{count} image{'' if count == 1 else 's'}"
    return f"{listed or 'no characters'}: {images}, recorded with {networks or 'nothing'}, {megabytes(bank.bytes)}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def merge_alike(banks: Mapping[str, Bank]) -> Bank:
    """A bank with the images of several, each once. banks: by the names of the inputs that they come from.

    Raises ValueError for banks of different models.
    """
    recordings = [(name, recording) for name, bank in banks.items() for recording in bank.recordings]
    for name, recording in recordings[1:]:
        (first, expected), found = recordings[0], recording
        if (found.origin.model, found.origin.network) != (expected.origin.model, expected.origin.network):
            raise ValueError(
                f"{name} was recorded with {_model(found)}, and {first} with {_model(expected)}; banks of one model "
                "are expected."
            )
    kept: list[Recording] = []
    for _, recording in recordings:
        if not any(equal(recording, known) for known in kept):
            kept.append(recording)
    return merge([Bank(kept)])


def equal(first: Recording, second: Recording) -> bool:
    """Whether two recordings hold the same: one, for instance, that was saved and loaded."""
    if first is second:
        return True

    def of(recording: Recording):
        images = [(image.characters, image.number, image.prompt) for image in recording.images]
        return recording.origin, images, recording.levels, recording.layers, recording.tokens.keys()

    return of(first) == of(second) and all(
        _same_bits(tensor, second.tokens[slot]) and _same_bits(first.indices[slot[:3]], second.indices[slot[:3]])
        for slot, tensor in first.tokens.items()
    )


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    parts = (tensor.cpu().contiguous().flatten().view(torch.uint8) for tensor in (first, second))
    return torch.equal(*parts)


def _model(recording: Recording) -> str:
    origin = recording.origin
    return f"{short(origin.network, 40)} ({short(origin.model, 12)})"
