"""The modules of tools, which is no package."""

import contextlib
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@contextlib.contextmanager
def tools(package: str, *modules: str):
    """Modules of a folder of tools, by their names. The folder stays on the path for as long: what these import later,
    and the processes that they start, is found there, too."""
    sys.path.append(str(TOOLS))  # behind the host's own folder, which has modules of the same names
    try:
        yield SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in modules})
    finally:
        sys.path.remove(str(TOOLS))
