"""Folders of model files, those included that the host does not register itself."""

import os
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ...core.inputs import shown
from . import choices, included, loading

LONGEST = 200  # bytes of a name, below what file systems take, so that a suffix and a number still fit
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
LISTED = (*SUFFIXES, ".ts")  # by the host; the last one is TorchScript


def checkpoint_choices(system: str) -> list[str]:
    """The checkpoints that an input of a video model's loader offers: see `choices.to_choose`."""
    return choices.to_choose(loading.checkpoint_names(), included.checkpoints(system), *loading.FOLDERS)


def checkpoint_path(name: str) -> str:
    """Where one of `checkpoint_choices` lies. Raises FileNotFoundError."""
    return loading.path_of(name, *included.folders())


def file_names(folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """The user's files in the folders that the host knows as models/`folder`, and last the included ones."""
    return choices.own_first(*_own_and_included(folder, suffixes))


def file_choices(folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """`file_names` for an input that needs a file: see `choices.to_choose`."""
    return choices.to_choose(*_own_and_included(folder, suffixes), folder)


def _own_and_included(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    _register(folder)
    own, shipped = folder_paths.get_filename_list(folder), included.names(folder)
    return _ending_in(own, suffixes), _ending_in(shipped, suffixes)


def _ending_in(names: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower().endswith(suffixes)]


def path_of(folder: str, name: str) -> str:
    """Raises FileNotFoundError."""
    _register(folder)
    own = folder_paths.get_full_path(folder, name)
    return own or included.path_of(folder, name) or folder_paths.get_full_path_or_raise(folder, name)


def folder_of(folder: str) -> str:
    """Where a new file of this kind goes."""
    _register(folder)
    return folder_paths.get_folder_paths(folder)[0]


def inside(folder: str | Path, name: str, what: str) -> Path:
    """The path of `name` in `folder`, for every file and folder that the pack writes to.

    Only names are checked: links inside the host's folders are the user's own. what: what the name stands for, in the
    message.

    Raises ValueError for a name that leads out of the folder or that no file can have.
    """
    problem = ""
    if not isinstance(name, str) or not name.strip():
        problem = "a name is expected"
    elif "\0" in name:
        problem = "a name without null characters is expected"
    elif any(len(part.encode("utf-8", "surrogatepass")) > LONGEST for part in Path(name).parts):
        problem = f"a name of at most {LONGEST} bytes is expected"
    else:
        root = os.path.abspath(folder)
        path = Path(os.path.abspath(os.path.join(root, name)))
        if path != Path(root) and path.is_relative_to(root):
            return path
        problem = f"a name inside {root} is expected"
    raise ValueError(f"{what} is {shown(name)}; {problem}.")


def _register(folder: str) -> None:
    """Have the host know models/`folder`. Its lists, which other packs show, too, hold files of models alone."""
    folder_paths.add_model_folder_path(folder, str(Path(folder_paths.models_dir) / folder))
    included.limit(folder, LISTED)
