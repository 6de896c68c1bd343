"""The training of Storyworld's models, tried out at a thousandth of its size: every stage runs, goes on after a stop,
and leaves files that the host loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness.folders import environment, require_setup

TOOLS = Path(__file__).resolve().parents[1] / "tools"
PARTS = ("autoencoder", "clip", "unet", "reader")


def train(work: Path, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOLS / "train_storyworld.py"), "--work", str(work), "--scale", "0.001", *arguments]
    return subprocess.run(
        command, env=environment().clean_environ(), capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    require_setup()
    work = tmp_path_factory.mktemp("storyworld")
    done = train(work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left" in done.stdout  # how long it will take
    return work


@pytest.mark.parametrize("part", PARTS)
def test_a_stage_leaves_weights_a_log_and_a_curve(trained, part):
    from safetensors import safe_open

    with safe_open(trained / f"{part}.safetensors", "pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["part"] == f"storyworld {part}" and metadata["license"]
    recipe = json.loads(metadata["recipe"])
    assert recipe["plan"]["steps"] >= 2 and recipe["plan"]["seed"] == 0 and recipe["pictures"]["count"] >= 96
    assert json.loads((trained / f"{part}.jsonl").read_text().splitlines()[-1])["loss"] > 0
    assert (trained / f"{part}.png").stat().st_size > 1000


def test_a_stopped_stage_goes_on_and_ends_the_same(trained, tmp_path):
    """Stopped after its first step, the UNet reaches the very weights of the run that was not."""
    from safetensors.torch import load_file

    for file in trained.iterdir():
        if file.name == "data" or file.suffix == ".safetensors" and file.stem in ("autoencoder", "clip"):
            (tmp_path / file.name).symlink_to(file)
    state = torch.load(trained / "unet.pt", weights_only=True)
    first = train(tmp_path, "pictures", "--stop-after", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert torch.load(tmp_path / "unet.pt", weights_only=True)["step"] == 1
    second = train(tmp_path, "pictures")
    assert "going on from step 1" in second.stdout, second.stdout + second.stderr
    again = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert again["step"] == state["step"] > 1
    unbroken, resumed = (load_file(folder / "unet.safetensors") for folder in (trained, tmp_path))
    assert all(torch.equal(unbroken[name], tensor) for name, tensor in resumed.items())


def test_the_host_loads_what_was_trained(trained, host, monkeypatch):
    import folder_paths
    from storyreel.host import storyworld

    known = folder_paths.folder_names_and_paths[storyworld.FOLDER]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([str(trained)], known[1]))
    model, clip, vae = storyworld.load_model(), storyworld.load_clip(), storyworld.load_vae()
    vision = storyworld.load_clip_vision()
    picture = torch.rand(1, 128, 128, 3)
    assert vae.encode(picture).shape == (1, 12, 16, 16)
    assert vae.decode(torch.zeros(1, 12, 16, 16)).shape == picture.shape
    assert clip.encode_from_tokens(clip.tokenize("a red hero")).shape == (1, 77, 96)
    assert vision.encode_image(picture)["penultimate_hidden_states"].shape == (1, 65, 96)
    assert model.get_model_object("diffusion_model").in_channels == 12


def test_only_the_recipes_own_model_ships(tmp_path):
    require_setup()
    done = train(tmp_path, "--ship")
    assert done.returncode == 2 and "only the recipe's own model ships" in done.stderr
