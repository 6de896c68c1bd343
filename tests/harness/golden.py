"""Reference data of the published code: files of a system's folder, from the repository or from GOLDEN_DIR."""

import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import safe_open

DATA = Path(__file__).resolve().parents[1] / "golden" / "data"
LEFT_OUT = {  # of DATA, which is to stay small: systems and patterns
    ("dynamicrafter", "clip_towers.safetensors"),
    ("semantic_motion", "decoupled_attn*.safetensors"),
    ("semantic_motion", "mm_*.safetensors"),
    ("semantic_motion", "resampler_*.safetensors"),
    ("semantic_motion", "unet_*.io.safetensors"),
    ("streamingt2v", "apm.safetensors"),
    ("streamingt2v", "cam_frame_encoder.safetensors"),
    ("streamingt2v", "cam_injector.safetensors"),
    ("streamingt2v", "clip_preprocess.safetensors"),
    ("streamingt2v", "pipeline_chunk.safetensors"),
    ("streamingt2v", "svd_cam_frame_encoder.safetensors"),
    ("streamingt2v", "svd_unet_cam.safetensors"),
    ("streamingt2v", "unet_cam.safetensors"),
}


def folder(system: str) -> Path:
    """GOLDEN_DIR may be such a folder itself, or hold one for each system."""
    root = Path(os.environ.get("GOLDEN_DIR", DATA)).resolve()  # the host works in another folder than pytest
    return root / system if (root / system).is_dir() else root


def files(system: str, pattern: str) -> list:
    """The files as parameters of a test. A pattern without a match gives one that fails."""
    paths = sorted(folder(system).glob(pattern))
    if "GOLDEN_DIR" not in os.environ and (system, pattern) in LEFT_OUT:
        return [pytest.param(pattern, id=pattern, marks=pytest.mark.skip("only with the whole data, see GOLDEN_DIR"))]
    return [pytest.param(path, id=path.stem) for path in paths] or [pytest.param(pattern, id=f"no {pattern}")]


def to_clips(x: torch.Tensor, clips: int) -> torch.Tensor:
    """[(B T), C, H, W] -> [B, C, T, H, W]."""
    return rearrange(x, "(b t) c h w -> b c t h w", b=clips)


def to_frames(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> [(B T), C, H, W]."""
    return rearrange(x, "b c t h w -> (b t) c h w")


class Golden:
    """One file: tensors by name, and its configuration."""

    def __init__(self, path):
        assert isinstance(path, Path), f"there is no file {path}"
        self.path = path
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.metadata = file.metadata()

    def value(self, name: str):
        """A value of the metadata."""
        return json.loads(self.metadata[name])

    @property
    def config(self) -> dict:
        return self.value("config")

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def named(self, pattern: str) -> dict[tuple[int, ...], torch.Tensor]:
        """Tensors by the numbers in their names: the groups of a regular expression. Where none matches, that fails."""
        matches = {name: re.fullmatch(pattern, name) for name in self.tensors}
        tensors = {tuple(map(int, match.groups())): self[name] for name, match in matches.items() if match}
        assert tensors, f"{self.path.name} holds no {pattern}"
        return tensors

    def manifest(self) -> dict[str, list[int]]:
        """Keys and shapes of weights that are not in the file, from its manifest."""
        return json.loads(self.path.with_name(f"{self.path.stem}_manifest.json").read_text())

    def weights(self, prefix: str = "weights.") -> dict[str, torch.Tensor]:
        return part(self.tensors, prefix)


def procedural(shapes: dict[str, list[int]], seed: int, prefix: str = "") -> dict[str, torch.Tensor]:
    """Weights that the data do not hold, from their published rule, which knows them by names with the prefix."""
    return {key: _drawn(prefix + key, shape, seed) for key, shape in shapes.items()}


def _drawn(key: str, shape: list[int], seed: int) -> torch.Tensor:
    state = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)
    if not shape:
        return torch.tensor(0.5 + 0.5 * state.standard_normal(), dtype=torch.float32)
    drawn = state.standard_normal(tuple(shape))
    if len(shape) > 1:
        drawn = drawn / np.sqrt(float(np.prod(shape[1:])))
    elif key.endswith("mix_factor"):
        drawn = 0.5 * drawn
    else:
        drawn = (1.0 if key.endswith("weight") else 0.0) + 0.1 * drawn
    return torch.from_numpy(drawn.astype(np.float32).reshape(shape))


def part(weights: dict, prefix: str) -> dict:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """max|output - reference| / max|reference|"""
    assert output.shape == reference.shape
    return ((output.double() - reference.double()).abs().max() / reference.double().abs().max()).item()


def noise(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of output - reference, divided by the reference's standard deviation."""
    assert output.shape == reference.shape
    return ((output.double() - reference.double()).square().mean().sqrt() / reference.double().std()).item()


def difference(output: torch.Tensor, reference: torch.Tensor) -> float:
    """max|output - reference|"""
    assert output.shape == reference.shape
    return (output.double() - reference.double()).abs().max().item()
