"""Folders that are slow to fill, kept in `.cache/tests` from one run to the next by a hash of what fills them."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "tests"


def digest_of(sources: Iterable[Path], *settings) -> str:
    """A digest of files, of all files below folders, of this Python and torch, and of further values."""
    digest = hashlib.sha256(repr((sys.version, version("torch"), settings)).encode())
    for source in sources:
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        for file in files:
            if "__pycache__" not in file.parts:
                digest.update(file.relative_to(source.parent).as_posix().encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def cached(name: str, digest: str, fill: Callable[[Path], None], cache: Path = CACHE) -> Path:
    """A folder that `fill(folder)` has filled once for this digest; folders of other digests are removed."""
    folder = cache / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as scratch:
        fresh = Path(scratch, name)
        fresh.mkdir()
        fill(fresh)
        for stale in cache.glob(f"{name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            os.replace(fresh, folder)  # in one move: a folder that is there is complete
        except OSError:
            if not folder.is_dir():  # otherwise another process was quicker
                raise
    return folder
