"""The pack as users get it: the archive for the registry, unpacked, renamed, with another pack, by the Manager."""

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import environment
import numpy as np
import pytest
from hosting.folders import make_base
from hosting.server import Server
from PIL import Image

pytestmark = pytest.mark.programs

ROOT = Path(__file__).resolve().parents[2]
PACKS = Path(__file__).parents[1] / "packs"


def run(*command, cwd: Path, **environ: str) -> str:
    env = {**environment.clean_environ(), **environ}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A git repository with the present files of this one, committed or not."""
    folder = tmp_path_factory.mktemp("checkout")
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def comfy(tmp_path_factory, checkout):
    """comfy(*arguments) runs comfy-cli in the checkout, with its own home folder; returns its output."""
    home = tmp_path_factory.mktemp("home")
    tool = environment.publisher()

    def call(*arguments: str) -> str:
        folders = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "APPDATA": str(home)}
        return run(tool, "--skip-prompt", *arguments, cwd=checkout, **folders)

    call("tracking", "disable")
    return call


@pytest.fixture(scope="module")
def packed(comfy, checkout) -> Path:
    comfy("node", "pack")
    return checkout / "node.zip"


def test_the_registry_accepts_it(comfy):
    output = comfy("node", "validate")
    assert "All validation checks passed" in output
    assert "Warning" not in output and "Error" not in output


def test_the_zip_holds_the_pack_and_no_more(packed):
    assert packed.stat().st_size < 70e6
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"tests", "tools", "experiments", ".ci", ".git", ".gitignore", ".cache", "output"}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md"} <= tops
    assert {"core", "host", "nodes", "js", "models", "workflows"} <= tops
    assert [name for name in names if "__pycache__" in name or name.endswith("/")] == []
    assert "fonts/ComicNeue-Bold.otf" in names and "fonts/build.py" not in names


def offered(server: Server, folder: str) -> set[str]:
    """The nodes that came from custom_nodes/`folder`."""
    info = server.client().object_info()
    return {
        name
        for name, node in info.items()
        if node["python_module"] == f"custom_nodes.{folder}" and not node.get("dev_only")
    }


def declared() -> set[str]:
    return {path.stem for path in (ROOT / "js" / "docs").glob("*.md")}


def test_the_zip_loads_in_a_fresh_host(packed, tmp_path):
    base = make_base(tmp_path)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(base / "custom_nodes" / "comfyui-storyreel")
    with Server(base) as server:
        assert "IMPORT FAILED" not in server.log
        assert offered(server, "comfyui-storyreel") == declared() != set()
        for name in declared():
            page = server.client().get(f"/extensions/comfyui-storyreel/docs/{name}.md")
            assert page == (ROOT / "js" / "docs" / f"{name}.md").read_bytes()
        templates = server.client().get("/workflow_templates")["comfyui-storyreel"]
        assert sorted(templates) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


FOLDER = "Story Reel - a copy"  # the host serves no help pages from a folder with a space, of this pack or another


@pytest.fixture(scope="module")
def crowded(base, tmp_path_factory, tiny_checkpoint):
    """A server with the pack in a folder of another name, and another pack that patches attention."""
    tiny_checkpoint("sd15_full")
    folder = make_base(tmp_path_factory.mktemp("crowded"), models=base / "models")
    (folder / "custom_nodes" / FOLDER).symlink_to(ROOT, target_is_directory=True)
    (folder / "custom_nodes" / "attention_patcher").symlink_to(PACKS / "attention_patcher", target_is_directory=True)
    with Server(folder) as running:
        yield running


def test_it_loads_under_another_folder_name(crowded):
    assert "IMPORT FAILED" not in crowded.log
    assert offered(crowded, FOLDER) == declared() != set()
    assert offered(crowded, "attention_patcher") == {"ForeignReplace", "ForeignOverride"}


def frames(client, *patches: dict) -> np.ndarray:
    """Two frames, drawn with the model behind a chain of patch nodes."""
    sampling = dict(seed=3, steps=2, cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    prompt = {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15_full.ckpt"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["model", 1]}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
    }
    last = "model"
    for number, patch in enumerate(patches):
        name = f"patch{number}"
        prompt[name] = {"class_type": patch["class_type"], "inputs": {**patch["inputs"], "model": [last, 0]}}
        last = name
    links = dict(model=[last, 0], positive=["text", 0], negative=["text", 0], latent_image=["latent", 0])
    prompt["sample"] = {"class_type": "KSampler", "inputs": {**sampling, **links}}
    prompt["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["model", 2]}}
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "two_packs"}}
    result = client.run(prompt)
    assert result.status == "success", result.message
    files = [client.view(image) for image in result.outputs["save"]["images"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)), dtype=np.float32) for file in files])


OURS = {
    "class_type": "StoryReelConsistentAttention",
    "inputs": {"preset": "custom", "preset.sampling_rate": 1.0, "preset.blocks": "all", "strength": 1.0, "seed": 0},
}
REPLACE = {"class_type": "ForeignReplace", "inputs": {"block": "input", "number": 1}}
OVERRIDE = {"class_type": "ForeignOverride", "inputs": {}}


@pytest.fixture(scope="module")
def plain_and_ours(crowded) -> tuple[np.ndarray, np.ndarray]:
    """Without a patch, and with our patch alone."""
    client = crowded.client()
    return frames(client), frames(client, OURS)


@pytest.mark.parametrize("chain", [(REPLACE, OURS), (OVERRIDE, OURS), (OURS, OVERRIDE)], ids=["replace", "1st", "2nd"])
def test_it_works_with_a_pack_that_patches_attention(crowded, plain_and_ours, chain):
    """The other pack computes plain attention of its inputs, so our image must be the same as without it."""
    plain, ours = plain_and_ours
    both = frames(crowded.client(), *chain)
    assert np.abs(ours - plain).mean() > 1  # gray level
    assert np.abs(both - ours).max() <= 2


def test_requirements_install_line_by_line(tmp_path):
    """As the Manager does it: `pip install LINE` for each line, into an environment that holds only the host's torch.

    torch and torchvision stand in every host before a pack comes; a line that moved them would break it.
    """
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    pip = (environment.interpreter(venv), "-m", "pip")
    install = (*pip, "install", "-q", "--no-compile")
    run(*install, "-c", environment.CONSTRAINTS, "torch", "torchvision", cwd=tmp_path)
    before = run(*pip, "freeze", cwd=tmp_path).splitlines()
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        run(*install, line, cwd=tmp_path)
    run(*pip, "check", cwd=tmp_path)
    after = run(*pip, "freeze", cwd=tmp_path).splitlines()
    assert [line for line in before if line.startswith("torch") and line not in after] == []
