"""How the tools that measure Storyworld begin: the host, the files, their origin, the settings that are named."""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import environment

SHIPPED = environment.ROOT / "models" / "storyworld"
JUDGES = environment.ROOT / "experiments" / "storyworld" / "evaluate"
VIDEO = SHIPPED / "storyworld_video.safetensors"
PAGE = environment.ROOT / "docs" / "benchmarks.md"

Setting = TypeVar("Setting")


def begin(program: str, arguments: list[str]) -> int | None:
    """The exit code, where the program has run by the environment's own Python; else the pack and the quiet host are
    loaded into this one."""
    if (code := environment.rerun(program, arguments)) is not None:
        return code

    import pack

    sys.path.append(str(environment.ROOT))  # behind the host, which has modules of the same names
    pack.load_host(environment.find_host())
    logging.getLogger().setLevel(logging.ERROR)
    return None


def require(*files: Path) -> None:
    """Raises SetupError for the first file that is not there."""
    for file in files:
        if not file.exists():
            raise environment.SetupError(f"there is no {file}: train it, tools/train_storyworld.py says how.")


def origin(model: str, *files: Path) -> dict[str, str]:
    """What rows say of the weights that they were measured with: with others they are measured anew."""
    return {"model": model, "weights": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]}


def named(rows: str | None) -> list[str]:
    """The rows of --rows, with commas between; none is the whole table."""
    return rows.split(",") if rows else []


def keep_the_table(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str) -> None:
    """End the program if one of these options is set and no rows are named: the whole table, which documents show, is
    of certain counts, of one seed and of what ships."""
    set_ = [name for name in names if getattr(options, name) != parser.get_default(name)]
    if set_ and not options.rows:
        parser.error(f"the whole table has its own: no --{', --'.join(set_)} without --rows")


def settings(names: Iterable[str], read: Callable[[str], Setting]) -> list[Setting]:
    """Raises SetupError for a name that `read` does not know."""
    try:
        return [read(name) for name in names]
    except ValueError as error:
        raise environment.SetupError(str(error)) from None
