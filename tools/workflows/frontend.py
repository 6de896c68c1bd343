"""A real ComfyUI with this pack, and its frontend in a browser that has nothing to complain about in a workflow."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from environment import ROOT

from .models import PUBLISHED


@contextlib.contextmanager
def session() -> Iterator[tuple]:
    """(server, browser, the host's base folder). Empty files stand for published models: the frontend needs names."""
    sys.path.append(str(ROOT / "tests"))  # example images are the tests' own
    from harness.pictures import write_clips, write_example, write_other
    from hosting.browser import Browser
    from hosting.folders import link, make_base
    from hosting.server import Server

    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        link(base / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
        write_example(base / "input")
        write_other(base / "input")
        write_clips(base / "input")
        for file, (directory, *_) in PUBLISHED.items():
            (base / "models" / directory).mkdir(exist_ok=True)
            (base / "models" / directory / file).touch()
        with Server(base) as server, Browser() as browser:
            yield server, browser, base
