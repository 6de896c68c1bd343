"""The training of Storyworld's models, tried out at a thousandth of its size: every stage runs, goes on after a stop,
and leaves files that the host loads."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness.folders import environment, require_setup

pytestmark = pytest.mark.programs

TOOLS = Path(__file__).resolve().parents[1] / "tools"
MANIFESTS = Path(__file__).resolve().parent / "manifests"
STREAMING = ("streaming_base", "streaming_cam", "streaming_apm")
PARTS = ("autoencoder", "clip", "unet", "reader", "video_reader", "video", *STREAMING)


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
    [
        ("pictures", "unet", ("autoencoder", "clip")),
        ("video", "video", ("autoencoder", "clip", "unet")),
        ("streaming_cam", "streaming_cam", ("autoencoder", "clip", "unet", "streaming_base")),
    ],
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


def test_the_streaming_model_is_one_small_file_of_published_names(trained):
    """The base is that of its own stage, CAM is that of the next; all names are the published file's, at other
    numbers."""
    from safetensors import safe_open
    from safetensors.torch import load_file
    from storyreel.core.networks.streaming import keys

    file = trained / "streaming.safetensors"
    assert file.stat().st_size <= 16e6
    whole = load_file(file)

    def numberless(names) -> set[str]:
        return {re.sub(r"\d+", "N", name) for name in names}

    published = json.loads((MANIFESTS / "streaming_t2v.json").read_text())
    assert numberless(whole) <= numberless(published)
    ours = keys.read_unet({k.removeprefix(keys.UNET): t for k, t in whole.items() if k.startswith(keys.UNET)})
    extractor = {k.removeprefix(keys.EXTRACTOR): t for k, t in whole.items() if k.startswith(keys.EXTRACTOR)}
    ours |= {f"extractor.{key}": t for key, t in keys.read_extractor(extractor).items()}
    for part in STREAMING:
        for name, tensor in load_file(trained / f"{part}.safetensors").items():
            if name.startswith("network."):
                assert torch.equal(ours.pop(name.removeprefix("network.")), tensor), name
    assert not ours
    with safe_open(file, "pt") as opened:
        recipe = json.loads(opened.metadata()["recipe"])
    assert all(recipe["plan"][f"{part} steps"] >= 2 for part in ("base", "cam", "apm"))


@torch.no_grad()
def test_the_streaming_model_goes_on_with_a_clip(trained, host, monkeypatch):
    """By CAM and APM and without: with half-trained weights all that can be told is that each is heard."""
    import folder_paths
    from storyreel.host import dynamicrafter_sampling as sampling
    from storyreel.host import storyworld, streaming_loader
    from storyreel.host.extend_chunk import Told
    from storyreel.host.extend_models import extender_of

    known = folder_paths.folder_names_and_paths[storyworld.FOLDER]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([str(trained)], known[1]))
    loaded = streaming_loader.load("streaming.safetensors", precision=torch.float32)
    network = loaded.model.model.diffusion_model
    assert (loaded.kind.name, loaded.kind.frames, loaded.kind.memory) == ("StreamingT2V", 16, 8)
    assert network.config.head_channels == 32 and network.config.init_head_channels == 8
    for module in network.modules():  # which two steps of training leave almost shut
        if hasattr(module, "alpha"):
            module.alpha.fill_(1.0)
    for injector in network.injectors:
        injector.proj_out.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    clip, vae = storyworld.load_clip(), storyworld.load_vae()
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red hero waving", "")]
    before = torch.rand(8, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    inputs = dict(
        model=loaded.model, vae=vae, sampler=sampling.DDIM(1.0), seed=3, clip_vision=storyworld.load_clip_vision()
    )
    inputs |= dict(positive=prompts[0], negative=prompts[1], sigmas=sampling.sigmas_of(loaded.model, "leading", 2))
    made = {
        (cam, apm): extender_of(Told(**inputs, cam_strength=cam, apm_strength=apm)).make(0, before, before[:1])
        for cam, apm in ((1, 1), (0, 1), (1, 0), (0, 0))
    }
    assert all(frames.shape == (16, 128, 128, 3) and frames.isfinite().all() for frames in made.values())
    assert not any(torch.equal(made[1, 1], frames) for strengths, frames in made.items() if strengths != (1, 1))


def measured(tool: str, trained: Path, *arguments) -> list[dict]:
    """The rows that a measuring tool prints of the try-out."""
    command = [sys.executable, TOOLS / tool, "--video", trained / "video.safetensors", "--weights", trained]
    command += ["--judges", trained, "--json", *arguments]
    done = subprocess.run(
        command, env=environment().clean_environ(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_streaming_model_is_measured(trained):
    """Videos that were blended and that went on by the last frame, too: every figure with its interval, and what is
    left at the end of each chunk."""
    settings = ("both-chunks-2-blend-randomized", "dynamicrafter-chunks-1-colour-1")
    arguments = ["--streaming", trained / "streaming.safetensors", "--sheet", trained / "videos.png"]
    rows = measured(
        "measure_streaming.py", trained, *arguments, "--rows", ",".join(settings), "--videos", "1", "--steps", "2"
    )
    assert [row["setting"] for row in rows] == list(settings)
    assert [row["frames"] for row in rows] == [32, 31] and rows[0]["weights"]
    assert (trained / "videos.png").stat().st_size > 1000
    for row, chunks in zip(rows, (2, 1), strict=True):
        for name in ("jump", "cuts", "flow_deviation", "flow_jump", "colours", "scene", "drift"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        for name in ("colours", "scene", "drift"):
            assert len(row[f"{name}_by_chunk"]) == chunks + 1
            assert all(low <= mean <= high for mean, low, high in row[f"{name}_by_chunk"])


def test_the_video_model_is_measured(trained):
    """The judges and the model of the try-out: every figure of a row, each with its interval."""
    arguments = ("--rows", "drawn-wide,loop", "--pictures", "1", "--sheet", trained / "clips.png")
    drawn, loop = measured("measure_video.py", trained, *arguments)
    assert drawn["setting"] == "drawn-wide" and loop["setting"] == "loop" and drawn["weights"]
    assert (trained / "clips.png").stat().st_size > 1000
    for row, names in ((drawn, ("action", "path", "first", "colours", "still")), (loop, ("seam", "away", "first"))):
        for name in names:
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_only_the_recipes_own_model_ships(tmp_path):
    require_setup()
    done = train(tmp_path, "--ship")
    assert done.returncode == 2 and "only the recipe's own model ships" in done.stderr


@pytest.mark.parametrize("absent", ["streaming", "unet"])
def test_a_video_model_ships_once_it_is_trained(trained, host, tmp_path, monkeypatch, absent):
    """The other parts are needed."""
    monkeypatch.syspath_prepend(str(TOOLS))
    from storyworld import shipping, stages

    work, shipped = tmp_path / "work", tmp_path / "shipped"
    work.mkdir()
    for file in trained.glob("*.safetensors"):
        if file.stem != absent:
            (work / file.name).write_bytes(file.read_bytes())
    for figures in ("_drawing_figures", "_moving_figures", "_lasting_figures"):
        monkeypatch.setattr(stages.Training, figures, lambda self: {"named": 0.5})  # they take minutes
    if absent not in shipping.VIDEO_MODELS:
        with pytest.raises(FileNotFoundError, match="unet.safetensors: train every stage before --ship"):
            stages.Training(work).ship(shipped, tmp_path)
        assert not shipped.exists()
        return
    stages.Training(work).ship(shipped, tmp_path)
    names = {"autoencoder", "clip", "unet", "storyworld_video"}
    assert {path.name for path in shipped.iterdir()} == {
        f"{name}{end}" for name in names for end in (".safetensors", ".md")
    }
    assert "reached: named | 0.500" in (shipped / "unet.md").read_text()
