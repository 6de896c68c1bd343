"""The training of Storyworld's models, tried out at a thousandth of its size: every stage runs, goes on after a stop,
and leaves files that the host loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness.folders import environment, require_setup

pytestmark = pytest.mark.programs

TOOLS = Path(__file__).resolve().parents[1] / "tools"
PARTS = ("autoencoder", "clip", "unet", "reader", "video_reader", "video")


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
    assert recipe["plan"]["steps"] >= 2 and recipe["plan"]["seed"] == 0 and recipe["pictures"]["count"] >= 16
    assert json.loads((trained / f"{part}.jsonl").read_text().splitlines()[-1])["loss"] > 0
    assert (trained / f"{part}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("stage", "part", "needs"),
    [("pictures", "unet", ("autoencoder", "clip")), ("video", "video", ("autoencoder", "clip", "unet"))],
)
def test_a_stopped_stage_goes_on_and_ends_the_same(trained, tmp_path, stage, part, needs):
    """Stopped after its first step, a UNet reaches the very weights of the run that was not."""
    from safetensors.torch import load_file

    for file in trained.iterdir():
        if file.name == "data" or file.suffix == ".safetensors" and file.stem in needs:
            (tmp_path / file.name).symlink_to(file)
    state = torch.load(trained / f"{part}.pt", weights_only=True)
    first = train(tmp_path, stage, "--stop-after", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "drawing" not in first.stdout
    assert torch.load(tmp_path / f"{part}.pt", weights_only=True)["step"] == 1
    second = train(tmp_path, stage)
    assert "going on from step 1" in second.stdout, second.stdout + second.stderr
    again = torch.load(tmp_path / f"{part}.pt", weights_only=True)
    assert again["step"] == state["step"] > 1
    unbroken, resumed = (load_file(folder / f"{part}.safetensors") for folder in (trained, tmp_path))
    assert all(torch.equal(unbroken[name], tensor) for name, tensor in resumed.items())


def test_the_host_loads_what_was_trained(trained, host, monkeypatch):
    import folder_paths
    from storyreel.host import dynamicrafter_loader, storyworld

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
    video = dynamicrafter_loader.load("video.safetensors")
    assert video.kind.name == "storyworld" and video.kind.interpolates
    assert video.model.model.sizes.in_channels == 24 and video.model.model.sizes.context_dim == 96


def test_the_video_model_is_measured(trained):
    """The judges and the model of the try-out: every figure of a row, each with its interval."""
    command = [
        sys.executable,
        str(TOOLS / "measure_video.py"),
        "--rows",
        "drawn-wide,loop",
        "--pictures",
        "1",
        "--json",
    ]
    command += [
        "--sheet",
        trained / "clips.png",
        "--video",
        trained / "video.safetensors",
        "--weights",
        trained,
        "--judges",
        trained,
    ]
    done = subprocess.run(
        command, env=environment().clean_environ(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    drawn, loop = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert drawn["setting"] == "drawn-wide" and loop["setting"] == "loop" and drawn["weights"]
    assert (trained / "clips.png").stat().st_size > 1000
    for row, names in ((drawn, ("action", "path", "first", "colours", "still")), (loop, ("seam", "away", "first"))):
        for name in names:
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_only_the_recipes_own_model_ships(tmp_path):
    require_setup()
    done = train(tmp_path, "--ship")
    assert done.returncode == 2 and "only the recipe's own model ships" in done.stderr
