"""The golden tests are driven by files: other sizes in the names are read, and a missing file fails."""

import pytest
import torch
from harness import golden
from safetensors.torch import save_file


def test_tensors_are_selected_by_the_numbers_in_their_names(tmp_path):
    tensors = {"tables.k_20steps_t449": torch.zeros(20), "tables.k_30steps_t599": torch.ones(30), "k": torch.ones(1)}
    save_file(tensors, tmp_path / "data.safetensors")
    data = golden.Golden(tmp_path / "data.safetensors")
    levels = data.named(r"tables\.k_(\d+)steps_t(\d+)")
    assert {numbers: len(tensor) for numbers, tensor in levels.items()} == {(20, 449): 20, (30, 599): 30}
    with pytest.raises(AssertionError, match=r"data.safetensors holds no tables"):
        data.named(r"tables\.guider_(\d+)")


@pytest.mark.parametrize("of_a_system", [True, False])
def test_a_folder_without_the_files_fails(of_a_system, tmp_path, monkeypatch):
    """GOLDEN_DIR, relative to the folder in which pytest is started."""
    (tmp_path / "data" / "tooncrafter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLDEN_DIR", "data/tooncrafter" if of_a_system else "data")
    (missing,) = golden.files("tooncrafter", "decoder_*.safetensors")
    with pytest.raises(AssertionError, match=r"there is no file decoder_\*.safetensors"):
        golden.Golden(*missing.values)
    save_file({"in.z": torch.zeros(1)}, tmp_path / "data" / "tooncrafter" / "decoder_other.safetensors")
    (parameter,) = golden.files("tooncrafter", "decoder_*.safetensors")
    monkeypatch.chdir("/")
    assert golden.Golden(*parameter.values)["in.z"].shape == (1,)
