"""The training of Storyworld's models, tried out at the least size: every stage runs, goes on after a stop,
and leaves files that the host loads."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import environment
import pytest
import torch
from harness.cache import cached, digest_of
from harness.setup import require_setup

pytestmark = pytest.mark.programs

SCALE = 0.0002
ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
MANIFESTS, SHIPPED = TESTS / "manifests", TESTS.parent / "models" / "storyworld"
STREAMING = ("streaming_base", "streaming_cam", "streaming_apm")
MOTION = ("ip_adapter", "domain_adapter", "motion_module", "predictor")
PARTS = ("autoencoder", "clip", "unet", "transformer", "classifier", "video_classifier", "video", *STREAMING, *MOTION)


def program(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "experiments" / "storyworld", *arguments]
    return subprocess.run(
        command, env=environment.clean_environ(), capture_output=True, text=True, timeout=900, check=False
    )


def train(work: Path, *arguments) -> subprocess.CompletedProcess:
    return program("train", "--work", work, "--scale", str(SCALE), *arguments)


def numberless(names) -> set[str]:
    return {re.sub(r"\d+", "N", name) for name in names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """All stages, trained once for this code: see `harness.cache`."""
    require_setup()

    def fill(folder: Path):
        done = train(folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "left" in done.stdout  # how long it will take

    sources = [ROOT / name for name in ("core", "host", "experiments", "tools/pack.py")]
    kept = cached("storyworld", digest_of(sources, SCALE), fill)
    return Path(shutil.copytree(kept, tmp_path_factory.mktemp("storyworld") / "work"))


@pytest.mark.parametrize("part", PARTS)
def test_a_stage_leaves_weights_a_log_and_a_curve(trained, part):
    from safetensors import safe_open

    with safe_open(trained / f"{part}.safetensors", "pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["part"] == f"storyworld {part}" and metadata["license"]
    recipe = json.loads(metadata["recipe"])
    assert recipe["plan"]["steps"] >= 2 and recipe["plan"]["seed"] == 0 and recipe["pictures"]["count"] >= 8
    stage = "ip_adapter" if part == "domain_adapter" else part  # both are trained in one
    assert json.loads((trained / f"{stage}.jsonl").read_text().splitlines()[-1])["loss"] > 0
    assert (trained / f"{stage}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("stage", "needs"),
    [
        ("streaming_cam", ("autoencoder", "clip", "unet", "streaming_base")),
        ("predictor", ("autoencoder", "clip", "ip_adapter")),
        ("transformer", ("autoencoder", "clip", "unet")),
    ],
)
def test_a_stopped_stage_goes_on_and_ends_the_same(trained, lab, tmp_path, capsys, stage, needs):
    """Stopped after its first step, a network reaches the very weights of the run that was not; one stage of each
    trainer."""
    from safetensors.torch import load_file

    stages, workspace = lab.train.stages.STAGES, lab.train.workspace.Workspace
    for file in trained.iterdir():
        if file.name == "data" or file.suffix == ".safetensors" and file.stem in needs:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(lab.train.trainer.Stopped, match=r"stopped after step 1 of [2-9]"):
        stages[stage](workspace(tmp_path, scale=SCALE, stop_after=1))
    assert "drawing" not in capsys.readouterr().out
    stages[stage](workspace(tmp_path, scale=SCALE))
    printed = capsys.readouterr().out
    assert f"{stage}: resuming" in printed and "step 0 of" not in printed
    unbroken, resumed = (load_file(folder / f"{stage}.safetensors") for folder in (trained, tmp_path))
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], tensor) for name, tensor in resumed.items())


def test_the_host_loads_what_was_trained(trained, host, monkeypatch):
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import loader

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
    transformer = storyworld.load_model(part="transformer").get_model_object("diffusion_model")
    assert transformer.in_channels == 12 * 4 and len(transformer.single_blocks) == 6  # tokens of 2 x 2 latents
    video = loader.load("video.safetensors")
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
    """By CAM and APM and without: with half-trained weights all that can be shown is that each has an effect."""
    import folder_paths
    from storyreel.host import storyworld
    from storyreel.host.dynamicrafter import sampling
    from storyreel.host.extend.extender import ChunkInputs
    from storyreel.host.extend.families import extender_of
    from storyreel.host.streaming import loader

    known = folder_paths.folder_names_and_paths[storyworld.FOLDER]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, storyworld.FOLDER, ([str(trained)], known[1]))
    loaded = loader.load("streaming.safetensors", precision=torch.float32)
    network = loaded.model.model.diffusion_model
    assert (loaded.kind.name, loaded.kind.frames, loaded.kind.overlap) == ("StreamingT2V", 16, 8)
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
        (cam, apm): extender_of(ChunkInputs(**inputs, cam_strength=cam, apm_strength=apm)).generate(
            0, before, before[:1]
        )
        for cam, apm in ((1, 1), (0, 1), (1, 0), (0, 0))
    }
    assert all(frames.shape == (16, 128, 128, 3) and frames.isfinite().all() for frames in made.values())
    assert not any(torch.equal(made[1, 1], frames) for strengths, frames in made.items() if strengths != (1, 1))


def rows_in(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def command(lab):
    """The module of the commands, in this process."""
    return importlib.import_module("experiments.storyworld.__main__")


@pytest.fixture
def measured(command, trained, capsys, monkeypatch):
    """measured(kind, *arguments) -> the rows that the command prints of the try-out. What it adds to the host's
    folders is gone afterwards."""
    import folder_paths

    known = {name: (list(folders), ends) for name, (folders, ends) in folder_paths.folder_names_and_paths.items()}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})

    def measure(kind: str, *arguments: str) -> list[dict]:
        options = command.parse(["evaluate", kind, "--weights", str(trained), "--json", *arguments])
        capsys.readouterr()
        assert options.run(options) == 0
        return rows_in(capsys.readouterr().out)

    return measure


def test_the_streaming_model_is_measured(trained, measured):
    """Videos that were blended and that the last frame alone extends, too: every result with its interval, and what is
    left at the end of each chunk."""
    settings = ("both-blend-randomized", "dynamicrafter")
    rest = ["--sheet", str(trained / "videos.png"), "--count", "1", "--steps", "2"]
    changed = ["--set", "chunks", "1", "--set", "color", "1"]
    rows = measured("streaming", "--rows", ",".join(settings), *rest, *changed)
    assert [row["setting"] for row in rows] == list(settings)
    assert [row["frames"] for row in rows] == [24, 31] and rows[0]["weights"]
    assert (trained / "videos.png").stat().st_size > 1000
    for row in rows:
        for name in ("jump", "cuts", "flow_deviation", "flow_jump", "colors", "scene", "drift"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        for name in ("colors", "scene", "drift"):
            assert len(row[f"{name}_by_chunk"]) == 2
            assert all(low <= mean <= high for mean, low, high in row[f"{name}_by_chunk"])


def test_the_video_model_is_measured(trained):
    """By the program itself, the classifiers and the model of the try-out: every result of a row, each with its
    interval."""
    rest = ["--rows", "drawn-wide,loop", "--count", "1", "--steps", "2", "--sheet", trained / "clips.png"]
    done = program("evaluate", "video", "--weights", trained, "--json", *rest)
    assert done.returncode == 0, done.stdout + done.stderr
    drawn, loop = rows_in(done.stdout)
    assert drawn["setting"] == "drawn-wide" and loop["setting"] == "loop" and drawn["weights"]
    assert (trained / "clips.png").stat().st_size > 1000
    for row, names in ((drawn, ("action", "path", "first", "colors", "still")), (loop, ("seam", "away", "first"))):
        for name in names:
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_semantic_motion_is_four_small_files(trained):
    """Of published names; the picture model has learnt nothing."""
    from safetensors.torch import load_file

    sizes = {part: (trained / f"{part}.safetensors").stat().st_size for part in MOTION}
    assert sizes.pop("domain_adapter") <= 1e6 and sum(sizes.values()) <= 8e6
    for part, published in (("motion_module", "mm_sd_v15_v2"), ("ip_adapter", "ip-adapter-plus_sd15")):
        listed = json.loads((MANIFESTS / f"{published}.json").read_text())
        assert numberless(load_file(trained / f"{part}.safetensors")) == numberless(listed)


def test_the_predictor_says_what_it_reached_and_is_not_trained_twice(trained, lab, capsys):
    from safetensors import safe_open
    from storyreel.core.networks.semantic_motion.config import read_training

    with safe_open(trained / "predictor.safetensors", "pt") as file:
        training = read_training(file.metadata())
    assert training["figures"]["clips"] == 1
    assert training["beats_interpolation"] is False and "held-out" in training["verdict"]
    before = (trained / "predictor.safetensors").read_bytes()
    lab.train.stages.STAGES["predictor"](lab.train.workspace.Workspace(trained, scale=SCALE))
    assert "predictor.safetensors is there" in capsys.readouterr().out
    assert (trained / "predictor.safetensors").read_bytes() == before


def test_semantic_motion_is_measured(trained, measured):
    """As tokens, and decoded in every way; a clip that no model made is where it should be."""
    settings = ("tokens", "drawn", "true", "predicted-text", "interpolated-single", "true-dynamicrafter")
    rest = ["--count", "2", "--steps", "2", "--sheet", str(trained / "motion.png")]
    tokens, *decoded = measured("motion", "--rows", ",".join(settings), *rest)
    assert tokens["mse"] > 0 and tokens["gain_low"] <= tokens["gain"] <= tokens["gain_high"]
    assert [row["setting"] for row in decoded] == list(settings[1:])
    for row in decoded:
        for name in ("seen", "every", "action", "patches_first", "patches_frames", "clip_first", "clip_frames"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert (trained / "motion.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["pictures", "video", "streaming", "motion"])
def test_a_setting_that_there_is_not_is_named(command, kind):
    options = command.parse(["evaluate", kind, "--rows", "nothing-of-that-kind"])
    with pytest.raises(command.environment.SetupError, match=r'"nothing-of-that-kind" is no setting; there are \w+'):
        options.run(options)


def test_an_error_is_one_sentence():
    require_setup()
    done = program("evaluate", "video", "--rows", "nothing-of-that-kind")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "storyworld: " in done.stderr and "nothing-of-that-kind" in done.stderr.splitlines()[-1]


def test_only_the_published_trainings_models_ship(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.parse(["train", "--scale", str(SCALE), "--publish"])
    assert "only the published training's models ship" in capsys.readouterr().err


@pytest.fixture
def unmeasured(lab, monkeypatch):
    """What ships the parts, without the minutes that it takes to measure them."""
    monkeypatch.setattr(lab.train.publish, "RESULTS", {"unet": lambda *_: {"named": 0.5}})
    return lab.train.publish


def copied(trained: Path, work: Path, *absent: str) -> Path:
    work.mkdir()
    for file in trained.glob("*.safetensors"):
        if file.stem not in absent:
            (work / file.name).write_bytes(file.read_bytes())
    return work


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.*")}


def with_cards(*names: str) -> set[str]:
    return {f"{name}{end}" for name in names for end in (".safetensors", ".md")}


def test_what_is_trained_ships(trained, tmp_path, unmeasured):
    """Whatever there is of video, streaming and semantic motion; the other parts are needed."""
    work, shipped, judges = copied(trained, tmp_path / "work", "streaming", "predictor"), tmp_path / "a", tmp_path / "b"
    unmeasured.publish([], work, shipped, judges)
    motion = "ipadapter/storyworld_ip_adapter", "loras/storyworld_domain_adapter"
    motion += ("animatediff_models/storyworld_motion_module",)
    images = "autoencoder", "clip", "unet", "transformer"
    assert files_in(shipped) == with_cards(*images, "storyworld_video", *motion)
    assert files_in(judges) == {"classifier.safetensors", "video_classifier.safetensors"}
    assert "reached: named | 0.500" in (shipped / "unet.md").read_text()
    (work / "clip.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors: train it before --publish"):
        unmeasured.publish([], work, tmp_path / "none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_named_stages_ship_alone(trained, tmp_path, unmeasured):
    work, shipped = copied(trained, tmp_path / "work", "video", "classifier"), tmp_path / "shipped"
    unmeasured.publish([*STREAMING, "predictor"], work, shipped, tmp_path / "judges")
    assert files_in(shipped) == with_cards("storyworld_streaming", "semantic_motion/storyworld_predictor")
    assert not (tmp_path / "judges").exists()
    for stages, missing in ((["autoencoder", "video"], "video"), (["pictures"], "classifier")):  # the judge of the UNet
        with pytest.raises(FileNotFoundError, match=rf"/{missing}\.safetensors: train it before --publish"):
            unmeasured.publish(stages, work, tmp_path / "none", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    unmeasured.publish(["pictures"], work, tmp_path / "measured", copied(trained, tmp_path / "judges"))
    assert files_in(tmp_path / "measured") == with_cards("unet")


def test_image_models_without_twins_have_a_name_and_pictures_of_their_own(lab, tmp_path):
    work, other = (lab.train.workspace.Workspace(tmp_path, seed=2, twins=twins) for twins in (True, False))
    assert (work.image_model("unet"), other.image_model("unet")) == ("unet_2", "unet_2_no_twins")
    assert work.image_model("transformer") != other.image_model("transformer")
    recipe = lab.train.image_batches.image_recipe
    assert recipe(work).twins > 0 and (recipe(other).twins, recipe(other).triplets) == (0, 0)


def test_a_stage_builds_on_what_ships_where_nothing_else_was_trained(lab, trained, tmp_path):
    work = copied(trained, tmp_path / "work", "unet", "clip")
    train_video, workspace = lab.train.stages.STAGES["video"], lab.train.workspace.Workspace
    with pytest.raises(lab.train.trainer.Stopped):
        train_video(workspace(work, scale=SCALE, stop_after=1, shipped=[SHIPPED]))
    with pytest.raises(FileNotFoundError, match=r"work/unet\.safetensors: train it before the stages"):
        train_video(workspace(work, scale=SCALE))
