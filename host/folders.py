"""Folders of models that the host may not know yet, where people keep files of these kinds already."""

from pathlib import Path

import folder_paths

from .storyworld import SHIPPED

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")


def file_names(folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """The files in models/`folder`, wherever else the user's settings put it, and the toy's own."""
    _register(folder)
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(suffixes)]


def path_of(folder: str, name: str) -> str:
    """Raises FileNotFoundError."""
    _register(folder)
    return folder_paths.get_full_path_or_raise(folder, name)


def folder_of(folder: str) -> str:
    """Where a new file of this kind goes."""
    _register(folder)
    return folder_paths.get_folder_paths(folder)[0]


def _register(folder: str) -> None:
    for place in (Path(folder_paths.models_dir), SHIPPED):
        folder_paths.add_model_folder_path(folder, str(place / folder))
