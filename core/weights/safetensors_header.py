"""The header of a safetensors file: what it holds, read and checked before the library opens it.

A file is the length of its header in 8 bytes, the header in JSON, and the numbers of all tensors without a gap. See
https://github.com/huggingface/safetensors#format.
"""

import json
import math
from pathlib import Path

from ..text import short
from .refusal import MOST_TENSORS, Unreadable

BITS = {  # of a number, by its format
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
LENGTH = 8  # bytes before the header
LONGEST = 2**25  # bytes of a header; a published checkpoint's is a hundredth
METADATA = "__metadata__"
MOST_SIDES, LARGEST_SIDE = 8, 2**40


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a file whose header is true to the bytes behind it. Raises Unreadable."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(start, "little") if len(start := file.read(LENGTH)) == LENGTH else None
        if length is None:
            raise _not_whole(size, f"a header's length of {LENGTH} bytes was expected first")
        left = size - LENGTH - length
        if left < 0:
            raise _not_whole(size, f"it states a header of {length:,} bytes, and {size - LENGTH:,} follow")
        if length > LONGEST:
            raise _not_whole(size, f"it states a header of {length:,} bytes, and {LONGEST:,} at most were expected")
        header = _parsed(file.read(length), size)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _not_whole(size, f"its {METADATA} holds more than texts by name")
    if len(header) > MOST_TENSORS:
        raise Unreadable(f"holds {len(header):,} weights; {MOST_TENSORS:,} at most were expected")
    end = 0
    for begin, stop, key in sorted(_place(key, entry, size) for key, entry in header.items()):
        if begin != end:
            raise _not_whole(size, f"{short(key)} begins at byte {begin:,}, and byte {end:,} was expected")
        end = stop
    if end != left:
        raise _not_whole(size, f"it states {end:,} bytes of weights, and {left:,} follow")
    return metadata


def _parsed(text: bytes, size: int) -> dict:
    def once(pairs: list) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in found if names.count(name) > 1)
            raise _not_whole(size, f"its header names {short(double)} twice")
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=once)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise _not_whole(size, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _not_whole(size, f"its header is a {type(header).__name__}, and tensors by name were expected")
    return header


def _place(key: str, entry, size: int) -> tuple[int, int, str]:
    """(first byte, the byte behind the last, key) of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _not_whole(size, f"{short(key)} has no dtype, shape and data_offsets in its header")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _not_whole(size, f"{short(key)} has the format {short(dtype)}, which no version of safetensors knows")
    if not _whole_numbers(shape) or len(shape) > MOST_SIDES or any(side > LARGEST_SIDE for side in shape):
        raise _not_whole(size, f"{short(key)} has the shape {short(shape)}, and up to {MOST_SIDES} sides were expected")
    if not _whole_numbers(place) or len(place) != 2:
        raise _not_whole(size, f"{short(key)} has the place {short(place)}, and two bytes' numbers were expected")
    begin, stop = place
    if (stop - begin) * 8 != math.prod(shape) * bits:
        raise _not_whole(
            size,
            f"{short(key)} has {short(stop - begin)} bytes, which are not those of {short(shape)} in {dtype}",
        )
    return begin, stop, key


def _whole_numbers(value) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _not_whole(size: int, why: str) -> Unreadable:
    return Unreadable(f", of {size:,} bytes, is no safetensors file, or not a whole one: {why}; download it again")
