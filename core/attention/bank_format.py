"""Banks as tensors by name and texts by name, which is what a safetensors file holds: see docs/bank-format.md."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..text import short
from ..weights.refusal import MOST_TENSORS, Misfit, Unreadable, shape_shown
from ..weights.stated import Each, Fields, One, Real, Rising, Text, Whole, read_stated, switch
from .bank import DTYPES, Bank, BankImage, Level, Origin, Recording

METADATA = "storyreel_bank"
VERSION = 1
LONGEST = 2**22  # letters of the metadata
MOST_RECORDINGS, MOST_IMAGES = 2**10, 2**12
EXPECTED = "a file of Save Bank was expected"

_sigma, _size = Real(0, 1e9), Whole(1, 2**20)
_pixels = Whole(1, 2**20)
_rate = Real(0, 1)
_origin = {
    **dict.fromkeys(("model", "network", "sampler"), Text()),
    "sigmas": Each(_sigma, 0, 2**14),
    **dict.fromkeys(("height", "width"), _size),
    "seed": Whole(0, 2**64 - 1),
    **dict.fromkeys(("sampling_rate", "sampling_rate_fine"), _rate),
}
_image = {
    "characters": Each(Text(1000, lines=True), 0, 1000),
    "number": Whole(0, 2**63 - 1),
    "prompt": Text(2**20, lines=True),
    "preview": switch,
}
_level = {"pixels": _pixels, "tokens": Whole(1, 2**31 - 1), "channels": _size}
_step_level = {
    "pixels": _pixels,
    "layers": Rising(Each(Whole(0, 2**20), 0, 2**12)),
    "conds": Each(Rising(Each(One((0, 1)), 0, 2)), 1, MOST_IMAGES),
}
_step = {"sigma": _sigma, "levels": Rising(Each(Fields(_step_level, tuple(_step_level)), 1, 64), "pixels")}
_recording = {
    "origin": Fields(_origin, tuple(_origin)),
    "images": Each(Fields(_image, ("characters", "number")), 1, MOST_IMAGES),
    "levels": Rising(Each(Fields(_level, tuple(_level)), 0, 64), "pixels"),
    "steps": Rising(Each(Fields(_step, tuple(_step)), 0, 2**14), "sigma", falling=True),
}
_bank = {
    "version": Whole(1, VERSION),
    "recordings": Each(Fields(_recording, tuple(_recording)), 1, MOST_RECORDINGS),
}


def encode(bank: Bank) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a bank, where the tensors lie.

    Raises Unreadable for a bank that `decode` would not read.
    """
    tensors: dict[str, Tensor] = {}
    stated = [_encode_recording(number, recording, tensors) for number, recording in enumerate(bank.recordings)]
    metadata = {METADATA: json.dumps({"version": VERSION, "recordings": stated}, separators=(",", ":"))}
    if len(tensors) > MOST_TENSORS:
        raise Unreadable(f"holds {len(tensors):,} tensors; {MOST_TENSORS:,} at most were expected: record fewer images")
    decode(tensors, metadata)
    return tensors, metadata


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Bank:
    """The bank in a file's tensors and metadata. Of the tensors only indices are read.

    Raises Unreadable for anything but a whole bank.
    """
    if METADATA not in metadata:
        raise Unreadable(f"is no bank: it states no {METADATA} in its metadata; {EXPECTED}")
    try:
        stated = read_stated(METADATA, metadata[METADATA], _read_bank, LONGEST)
        left = dict(tensors)
        recordings = [_decode_recording(number, part, left) for number, part in enumerate(stated["recordings"])]
    except _Newer:
        raise
    except Misfit as error:
        raise Unreadable(f"{error} in a bank") from error
    except Unreadable as error:
        complete = "" if "expected" in str(error) else f"; {EXPECTED}"
        raise Unreadable(f"is no whole bank: {error}{complete}") from error
    if left:
        raise Unreadable(f"also holds {short(min(left))}, which its metadata does not state; {EXPECTED}")
    return Bank(recordings)


class _Newer(Unreadable):
    pass


def _read_bank(name: str, value) -> dict:
    version = value.get("version") if isinstance(value, dict) else None
    if type(version) is int and version > VERSION:
        raise _Newer(
            f"is a bank of format version {short(version) if version < 2**63 else 'beyond any bound'}; {VERSION} at "
            "most was expected: update ComfyUI-StoryReel"
        )
    return Fields(_bank, tuple(_bank))(name, value)


def _encode_recording(number: int, recording: Recording, tensors: dict[str, Tensor]) -> dict:
    """What the metadata states of a recording, whose tensors are added to `tensors`."""
    origin, steps = recording.origin, recording.steps
    conds: dict[tuple[int, float, int], list[int]] = {}
    for image, step, pixels, cond in sorted(recording.tokens):
        place = f"{image}.{steps.index(step)}.{pixels}"
        conds.setdefault((image, step, pixels), []).append(cond)
        tensors[f"{number}.indices.{place}"] = recording.indices[image, step, pixels].to(torch.int32)
        tensors[f"{number}.tokens.{place}.{cond}"] = recording.tokens[image, step, pixels, cond]
    images = []
    for place, image in enumerate(recording.images):
        images.append({"characters": sorted(image.characters), "number": image.number, "prompt": image.prompt})
        if image.preview is not None:
            images[-1]["preview"] = True
            tensors[f"{number}.preview.{place}"] = image.preview

    def step_level(step: float, pixels: int) -> dict:
        stored = [conds.get((image, step, pixels), []) for image in range(len(images))]
        return {"pixels": pixels, "layers": list(recording.layers[step, pixels]), "conds": stored}

    def stated_step(step: float) -> dict:
        levels = sorted(pixels for own, pixels in recording.layers if own == step)
        return {"sigma": step, "levels": [step_level(step, pixels) for pixels in levels]}

    return {
        "origin": {name: getattr(origin, name) for name in _origin},
        "images": images,
        "levels": [{name: getattr(level, name) for name in _level} for _, level in sorted(recording.levels.items())],
        "steps": [stated_step(step) for step in steps],
    }


def _decode_recording(number: int, stated: dict, left: dict[str, Tensor]) -> Recording:
    """A recording of the metadata, whose tensors are moved out of `left`."""
    images = tuple(
        BankImage(
            frozenset(image["characters"]),
            image["number"],
            image.get("prompt", ""),
            _take_preview(f"{number}.preview.{place}", left) if image.get("preview") else None,
        )
        for place, image in enumerate(stated["images"])
    )
    recording = Recording(Origin(**stated["origin"]), images)
    recording.levels |= {level["pixels"]: Level(**level) for level in stated["levels"]}
    for place, step in enumerate(stated["steps"]):
        for entry in step["levels"]:
            where = f"recordings[{number}].steps[{place}]"
            sigma, pixels, layers, conds = step["sigma"], entry["pixels"], entry["layers"], entry["conds"]
            if pixels not in recording.levels:
                raise Unreadable(f"{where} has a level of {pixels} pixels; one of its levels was expected")
            if len(conds) != len(images):
                raise Unreadable(f"{where} states conds of {len(conds)} images, and of {len(images)} was expected")
            level = recording.levels[pixels]
            recording.layers[sigma, pixels] = layers
            for image, stored in enumerate(conds):
                if not stored:
                    continue
                slot = f"{image}.{place}.{pixels}"
                index = _take_indices(f"{number}.indices.{slot}", left, level.tokens)
                recording.indices[image, sigma, pixels] = index
                shape = len(layers), len(index), level.channels
                for cond in stored:
                    tokens = _take(f"{number}.tokens.{slot}.{cond}", left, tuple(DTYPES.values()), shape)
                    recording.tokens[image, sigma, pixels, cond] = tokens
    return recording


def _take(name: str, left: dict[str, Tensor], dtypes: tuple[torch.dtype, ...], shape: tuple[int | None, ...]) -> Tensor:
    """The tensor of that name, moved out of `left`. None in its shape is any size from 1 on."""
    if name not in left:
        raise Unreadable(f"it lacks {name}")
    tensor = left.pop(name)
    if tensor.dtype not in dtypes:
        raise Misfit(name, _shown(tensor.dtype), " or ".join(map(_shown, dtypes)))
    fits = len(shape) == tensor.ndim and all(
        size == wanted if wanted is not None else size > 0 for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        sides = ["any" if size is None else size for size in shape]
        raise Misfit(name, shape_shown(tensor.shape), shape_shown(sides))
    return tensor


def _take_preview(name: str, left: dict[str, Tensor]) -> Tensor:
    return _take(name, left, (torch.uint8,), (None, None, 3))


def _take_indices(name: str, left: dict[str, Tensor], tokens: int) -> Tensor:
    """Numbers of tokens of a level that has so many."""
    count = left[name].shape[0] if name in left and left[name].ndim else 0
    index = _take(name, left, (torch.int32,), (count,))
    if count and not (index[0] >= 0 and index[-1] < tokens and (index[1:] > index[:-1]).all()):
        raise Unreadable(f"{name} is no rising list of token numbers from 0 to {tokens - 1}, which was expected")
    return index


def _shown(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
