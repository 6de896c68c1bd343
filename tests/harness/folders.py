"""Where the host's source lies, and a fresh base directory for a host to live in."""

import importlib.util
import json
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


def make_base(folder: Path, models: Path | None = None) -> Path:
    """Lay out a host's base directory in `folder`; `models` shares another host's models/."""
    for name in ("custom_nodes", "input", "output", "temp", "user/default"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if models is None:
        (folder / "models" / "checkpoints").mkdir(parents=True, exist_ok=True)
    else:
        (folder / "models").symlink_to(models, target_is_directory=True)
    # without these the first visit opens the templates dialog over the graph
    (folder / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    return folder
