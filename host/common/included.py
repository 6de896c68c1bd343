"""Model files that ship with the pack. Who brings some registers their folder; the general code only asks here.

Such a folder holds checkpoints, and in folders named as those in models/ the files of every other kind.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import folder_paths

NO_FILE = (".",)  # a suffix that no file has: such a folder is in no list
_checkpoints: dict[str, dict[str, str]] = {}  # {registered folder: {system: file name}}


def register(folder: str, path: Path, checkpoints: Mapping[str, str]) -> None:
    """Add a folder of included files under a name of its own, in which a user's own folder of that name comes first.

    Lists of the host and of other packs do not show the files. checkpoints: {system: name of its file}.
    """
    folder_paths.add_model_folder_path(folder, str(path))
    limit(folder, NO_FILE)
    _checkpoints[folder] = dict(checkpoints)


def limit(folder: str, suffixes: Iterable[str]) -> None:
    """Have the host list only files of these suffixes, if nobody has limited the folder yet. Paths of all others are
    found as before."""
    paths, known = folder_paths.folder_names_and_paths[folder]
    if not known:
        folder_paths.folder_names_and_paths[folder] = paths, set(suffixes)


def folders() -> list[str]:
    """The names that are registered with the host."""
    return list(_checkpoints)


def checkpoints(system: str) -> list[str]:
    """The checkpoints of a system that are there."""
    found = ((folder, files.get(system)) for folder, files in _checkpoints.items())
    return sorted(name for folder, name in found if name and folder_paths.get_full_path(folder, name))


def names(kind: str) -> list[str]:
    """The files of the kind that users keep in models/`kind`."""
    places = (Path(place) / kind for folder in _checkpoints for place in folder_paths.get_folder_paths(folder))
    return sorted({file.name for place in places if place.is_dir() for file in place.iterdir() if file.is_file()})


def path_of(kind: str, name: str) -> str | None:
    """The path of one of `names`, or None."""
    paths = (folder_paths.get_full_path(folder, f"{kind}/{name}") for folder in _checkpoints)
    return next(filter(None, paths), None)
