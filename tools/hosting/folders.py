"""Where the host's source lies, and a fresh base directory for a host to live in."""

import json
import os
import shutil
from pathlib import Path

import environment

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.47.12"}


def host_source() -> Path:
    """The folder of the host's main.py."""
    return environment.find_host()


def link(path: Path, target: Path):
    """Make `path` stand for `target`; where the system grants no symbolic links, by a junction or a copy."""
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        if os.name != "nt":
            raise
        if target.is_dir():
            import _winapi

            _winapi.CreateJunction(str(target), str(path))
        else:
            shutil.copy(target, path)


def make_base(folder: Path, models: Path | None = None) -> Path:
    """Lay out a host's base directory in `folder`; `models` shares another host's models/."""
    for name in ("custom_nodes", "input", "output", "temp", "user/default"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if models is None:
        for kind in ("checkpoints", "clip_vision", "vae"):
            (folder / "models" / kind).mkdir(parents=True, exist_ok=True)
    else:
        link(folder / "models", models)
    # without these the first visit opens the templates dialog over the graph
    (folder / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    return folder
