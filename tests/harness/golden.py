"""Reference data of the published code: files of a system's folder, from the repository or from GOLDEN_DIR."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import safe_open

DATA = Path(__file__).resolve().parents[1] / "golden" / "data"
LEFT_OUT = {("dynamicrafter", "clip_towers.safetensors")}  # of DATA, which is to stay small


def folder(system: str) -> Path:
    """GOLDEN_DIR may be such a folder itself, or hold one for each system."""
    root = Path(os.environ.get("GOLDEN_DIR", DATA))
    return root / system if (root / system).is_dir() else root


def files(system: str, pattern: str) -> list:
    """The files as parameters of a test. A pattern that matches nothing gives one that fails."""
    found = sorted(folder(system).glob(pattern))
    if "GOLDEN_DIR" not in os.environ and (system, pattern) in LEFT_OUT:
        return [pytest.param(pattern, id=pattern, marks=pytest.mark.skip("only with the whole data, see GOLDEN_DIR"))]
    return [pytest.param(path, id=path.stem) for path in found] or [pytest.param(pattern, id=f"no {pattern}")]


class Golden:
    """One file: tensors by name, and its configuration."""

    def __init__(self, path):
        assert isinstance(path, Path), f"there is no file {path}"
        self.path = path
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.config = json.loads(file.metadata()["config"])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def weights(self, prefix: str = "weights.") -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """max|found - reference| / max|reference|"""
    assert found.shape == reference.shape
    return ((found.double() - reference.double()).abs().max() / reference.double().abs().max()).item()
