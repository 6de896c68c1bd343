"""The modules of tools, which is no package, and of experiments, which is a package outside the pack."""

import contextlib
import importlib
import pkgutil
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@contextlib.contextmanager
def _on_path(*folders: Path):
    """Behind the host's own folder, which has modules of the same names. The folders stay for as long: what the modules
    import later, and the processes that they start, is loaded from there, too."""
    entries = [str(folder) for folder in folders]
    sys.path += entries
    try:
        yield
    finally:
        for entry in entries:
            sys.path.remove(entry)


def _modules(package: str, names: tuple[str, ...]) -> SimpleNamespace:
    return SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in names})


@contextlib.contextmanager
def tools(package: str, *modules: str):
    """Modules of a folder of tools, by their names."""
    with _on_path(TOOLS):
        yield _modules(package, modules)


@contextlib.contextmanager
def workflow_tools(*modules: str):
    """Modules of `tools.workflows`, by their names."""
    with _on_path(TOOLS, ROOT):
        yield _modules("tools.workflows", modules)


@contextlib.contextmanager
def experiments():
    """The package `experiments.storyworld` with all of its modules."""
    with _on_path(ROOT, TOOLS):
        if ROOT.name == "experiments":
            sys.modules.pop("experiments", None)  # by the name of a clone's folder pytest knows the pack
        package = importlib.import_module("experiments.storyworld")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        yield package
