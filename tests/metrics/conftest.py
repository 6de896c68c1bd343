"""What several test modules of this room use."""

import shutil

import pytest


@pytest.fixture
def folder(host):
    """folder(name) -> models/clip_vision/name, removed when the test is over."""
    made = []

    def path(name: str):
        made.append(host.base / "models" / "clip_vision" / name)
        made[-1].mkdir(parents=True, exist_ok=True)
        return made[-1]

    yield path
    for found in made:
        shutil.rmtree(found)
