"""A file of torch.save, judged by its table of contents and its pickle's text before torch opens it."""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from ..text import short
from .pickle_header import Another, Pickled, Storage, Stored, read_pickle
from .refusal import Unreadable

ZIP = b"PK\x03\x04"  # how torch itself tells its two formats apart
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older one
LONGEST = 2**22  # bytes of pickles; a published checkpoint's take a tenth
UNPACKED = 2**26  # bytes of code that may unfold from a TorchScript file
IN_USE = 2  # times the memory that weights claim: half precision may be taken as single


def is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(ZIP)) == ZIP


def check(path: Path, memory: int) -> None:
    """Raise Unreadable for a file that torch would not read as weights by name, and for one whose weights claim more
    than its own size and `memory`, in bytes."""
    size = path.stat().st_size
    try:
        found = _in_zip(path, size) if is_zip(path) else _in_older(path, size)
    except (Another, zipfile.BadZipFile) as error:
        raise not_whole(size) from error
    if not isinstance(found.value, Mapping):
        kind = "tensor" if isinstance(found.value, Stored) else type(found.value).__name__
        raise Unreadable(f"holds a {kind}; a checkpoint's weights were expected")
    claimed = sum(tensor.count * tensor.bytes_each for tensor in found.tensors)
    if IN_USE * (claimed - size) > memory:  # views may overlap in a small file, and take their whole size once in use
        raise Unreadable(
            f", of {size:,} bytes, claims weights of {short(claimed)} bytes, and {memory:,} bytes of memory are free; "
            "a file as large as its weights was expected"
        )


def not_whole(size: int) -> Unreadable:
    return Unreadable(
        f", of {size:,} bytes, is no checkpoint, or not a whole one: compare its size with the published one and "
        "download it again"
    )


def _in_zip(path: Path, size: int) -> Pickled:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        records = {entry.filename.lower(): entry for entry in entries}  # torch's reader finds names in any case
        root, found, _ = entries[0].filename.partition("/") if entries else ("", "", "")
        pickled = records.get(f"{root}/data.pkl".lower()) if found else None
        if pickled is None:
            first = f", {short(entries[0].filename)} among them" if entries else ""
            raise Unreadable(f"is an archive of {len(entries)} files{first}; a checkpoint of torch.save was expected")
        if archive.comment or len(records) != len(entries):
            raise Another
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise Unreadable(
                    f", of {size:,} bytes, holds {short(entry.filename)} packed, {entry.file_size:,} bytes unpacked; "
                    "torch.save packs nothing, and a file of its making was expected"
                )
            if entry.header_offset < 0 or entry.header_offset + entry.file_size > size:
                raise Another
        if pickled.file_size > LONGEST:
            raise _long(size, pickled.file_size)
        weights = read_pickle(BytesIO(archive.read(pickled)))
    for key, storage in weights.storages.items():
        record = records.get(f"{root}/data/{key}".lower())
        _check_storage(storage, 0 if record is None else record.file_size)
    return weights


def _in_older(path: Path, size: int) -> Pickled:
    """Five pickles: two marks, the writer's system, the weights and the keys of the storages that follow."""
    with open(path, "rb") as file:
        head = BytesIO(file.read(LONGEST))
    try:
        if read_pickle(head).value != MAGIC or read_pickle(head).value != PROTOCOL:
            raise Another
        read_pickle(head)
        weights = read_pickle(head)
        keys = read_pickle(head).value
    except Another:
        if size > LONGEST and head.tell() == LONGEST:
            raise _long(size, LONGEST) from None
        raise
    if not isinstance(keys, list) or set(keys) != weights.storages.keys() or len(keys) != len(weights.storages):
        raise Another
    left = size - head.tell()
    for storage in weights.storages.values():
        _check_storage(storage, left)
        left -= storage.count * storage.bytes_each
    return weights


def check_script(path: Path) -> None:
    """Raise Unreadable for a file that is no TorchScript, or that grows beyond its size when it is unpacked."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise not_whole(size) from error
    if not any(entry.filename.endswith("/constants.pkl") for entry in entries):  # the mark by which torch knows it, too
        raise Unreadable(f"is an archive of {len(entries)} files; TorchScript was expected")
    if sum(entry.file_size for entry in entries) > size + UNPACKED:
        raise Unreadable(f", of {size:,} bytes, unpacks to more than {size + UNPACKED:,}; TorchScript was expected")


def _check_storage(storage: Storage, held: int) -> None:
    claimed = storage.count * storage.bytes_each
    if claimed > held:
        raise Unreadable(
            f"claims {short(claimed)} bytes for its part {short(storage.key)}, and holds {max(held, 0):,}; it is not "
            "whole: a download of the published size was expected"
        )


def _long(size: int, found: int) -> Unreadable:
    return Unreadable(
        f", of {size:,} bytes, describes its weights in {found:,} bytes and more; a checkpoint with {LONGEST:,} at "
        "most was expected"
    )
