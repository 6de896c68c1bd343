"""Where the host's source lies, and a fresh base directory for a host to live in."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.47.12"}


def environment():
    """`tools/environment.py` as a module: the one place that knows where the host is."""
    spec = importlib.util.spec_from_file_location("storyreel_environment", ROOT / "tools" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def host_source() -> Path:
    """The folder of the host's main.py."""
    return environment().find_host()


def require_setup():
    """For tests that start the tools: those would set up an environment that is not ready, under the tests' feet."""
    tools = environment()
    assert tools._is_ready(tools.environment_folder()), "set up first: python tools/test.py --setup"


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


def write_tiny_checkpoint(name: str, folder: Path) -> Path:
    """`tiny.write` in a process of its own, for a process that holds no host."""
    path = folder / f"{name}.ckpt"
    if not path.exists():
        script = Path(__file__).with_name("tiny.py")
        subprocess.run([sys.executable, script, host_source(), folder, name], check=True, stdout=subprocess.DEVNULL)
    return path


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
