"""Files of banks, in the folders that the host knows as models/storyreel_banks: see docs/bank-format.md."""

from pathlib import Path

import comfy.model_management
import comfy.utils

from ...core.attention.bank import Bank
from ...core.attention.bank_format import EXPECTED, decode, encode
from ...core.inputs import shown
from ...core.video.files import appearing
from ...core.weights import safetensors_file
from ...core.weights.refusal import Unreadable
from ..common.folders import folder_of, inside, path_of
from ..common.loading import SAFETENSORS, read_with_metadata

FOLDER = "storyreel_banks"
SUFFIX = SAFETENSORS[0]


def check_bank(name: str, value) -> Bank:
    """A bank that is whole. name: of the input that it comes from. Raises ValueError for anything else."""
    if not isinstance(value, Bank):
        raise ValueError(f"{name} is {shown(value)}; a bank is expected.")
    if not value.finished:
        raise ValueError(f"{name} is still being recorded; a bank of a finished run is expected.")
    return value


def new_path(name: str) -> Path:
    """Where a bank of this name is saved: a path that is free, with a number after the name if need be.

    Raises ValueError for a name outside the folder.
    """
    path = inside(folder_of(FOLDER), name.strip().removesuffix(SUFFIX), "name")
    new, number = path.with_name(f"{path.name}{SUFFIX}"), 1
    while new.exists():
        new, number = path.with_name(f"{path.name}_{number:05}_{SUFFIX}"), number + 1
    return new


def save(bank: Bank, path: Path) -> None:
    """Write a bank to a file, which appears when it is whole.

    Raises ValueError for a bank without tokens or too large for a file, and OSError for a disk without room.
    """
    if not bank.bytes:
        raise ValueError("the bank holds no tokens; a bank of a run that shares tokens is expected.")
    try:
        tensors, metadata = encode(bank)
    except Unreadable as error:
        raise ValueError(error.of("the bank")) from error
    size = sum(map(safetensors_file.size_of, tensors.values()))
    bar = comfy.utils.ProgressBar(size)

    def report(written: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(written)

    with appearing(path, size) as unfinished:
        safetensors_file.write(unfinished, tensors, metadata, report)


def load(name: str) -> Bank:
    """A bank of the folder, whose tokens are read from the file when they are used.

    Raises ValueError for a file that holds none, and FileNotFoundError.
    """
    return load_file(Path(path_of(FOLDER, name)))


def load_file(path: Path) -> Bank:
    """The bank of a file, as `load`. Raises ValueError for a file that holds none."""
    if path.suffix.lower() not in SAFETENSORS:
        raise ValueError(f"{path.name} is no safetensors file; {EXPECTED}.")
    tensors, metadata = read_with_metadata(path)
    try:
        return decode(tensors, metadata)
    except Unreadable as error:
        raise ValueError(error.of(path.name)) from error


def stamp_of(name: str) -> str:
    """Changes when the file does. Raises FileNotFoundError."""
    stat = Path(path_of(FOLDER, name)).stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
