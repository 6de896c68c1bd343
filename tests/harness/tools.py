"""The modules of tools, which is no package, and of experiments, which is one beside the pack."""

import contextlib
import importlib
import pkgutil
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@contextlib.contextmanager
def tools(package: str, *modules: str):
    """Modules of a folder of tools, by their names. The folder stays on the path for as long: what these import later,
    and the processes that they start, is found there, too."""
    sys.path.append(str(TOOLS))  # behind the host's own folder, which has modules of the same names
    try:
        yield SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in modules})
    finally:
        sys.path.remove(str(TOOLS))


@contextlib.contextmanager
def experiments():
    """The package `experiments.storyworld` with all of its modules. Its folders stay on the path for as long."""
    folders = [str(ROOT), str(TOOLS)]
    sys.path += folders  # behind the host's own folder, which has modules of the same names
    if ROOT.name == "experiments":
        sys.modules.pop("experiments", None)  # by the name of a clone's folder pytest knows the pack
    try:
        package = importlib.import_module("experiments.storyworld")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        yield package
    finally:
        for folder in folders:
            sys.path.remove(folder)


@contextlib.contextmanager
def workflow_tools(*modules: str):
    """Modules of `tools.workflows`, by their names."""
    folders = [str(TOOLS), str(ROOT)]
    sys.path += folders  # behind the host's own folder, which has modules of the same names
    try:
        yield SimpleNamespace(**{name: importlib.import_module(f"tools.workflows.{name}") for name in modules})
    finally:
        for folder in folders:
            sys.path.remove(folder)
