"""Other hosts and frontends for the tests: named by version, each with its own packages before the project's."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import environment
import hosts
import pytest
from harness.packages import write_wheel
from hosting import server

ROOT = Path(__file__).resolve().parents[2]


def test_a_version_without_archive_is_refused():
    with pytest.raises(
        environment.SetupError, match=r"no package registry carries ComfyUI 0\.1\.0; it carries 0\.20\.1, "
    ):
        hosts.folder("0.1.0")


def test_the_oldest_host_is_the_one_that_the_pack_requires():
    version = min(hosts.ARCHIVES, key=lambda text: [int(part) for part in text.split(".")])
    assert f'requires-comfyui = ">={version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"ComfyUI {version} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"ComfyUI {version} or newer" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_options_are_taken_from_the_arguments():
    take = runpy.run_path(str(ROOT / "tools" / "test.py"))["take"]
    arguments = ["--host", "0.20.1", "-k", "story"]
    assert take("--host", arguments) == "0.20.1" and arguments == ["-k", "story"]
    assert take("--frontend", arguments) is None
    for arguments in (["--host"], ["--host", "-q"]):
        with pytest.raises(environment.SetupError, match="--host needs a version"):
            take("--host", arguments)


def test_a_server_takes_the_frontend_that_a_run_names(tmp_path, monkeypatch):
    monkeypatch.delenv("STORYREEL_FRONTEND", raising=False)
    assert "--front-end-root" not in server.host_options(tmp_path)
    monkeypatch.setenv("STORYREEL_FRONTEND", "/frontend")
    options = server.host_options(tmp_path)
    assert options[options.index("--front-end-root") + 1] == "/frontend"


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A cache with an unpacked host that pins two packages, and these, where pip finds them and nothing else."""
    monkeypatch.setattr(hosts.steps, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(hosts.steps, "LOG", tmp_path / "setup.log")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    host = hosts.folder("0.20.1")
    host.mkdir(parents=True)
    (host / "requirements.txt").write_text("torch\ncomfy-aimdo==0.0.7\ncomfy-kitchen>=0.2.8\nav>=14.2.0\n")
    for project in ("comfy_aimdo", "comfyui_frontend_package"):
        write_wheel(tmp_path / "wheels", project, "0.0.7", b"of the wheel")
    return tmp_path


@pytest.mark.programs
def test_a_hosts_own_packages_come_before_those_of_the_environment(shelf):
    """Where the tests themselves run on another host, that environment is the one below."""
    for _ in range(2):  # the second time finds it
        python = hosts.environment("0.20.1", Path(sys.executable))
        ask = "import importlib.metadata as m, json, sys, comfy_aimdo, pytest, torch, torchvision\n"
        ask += "answer = m.version('comfy-aimdo'), comfy_aimdo.version, pytest.__file__, torch.__file__, sys.prefix\n"
        ask += "print(json.dumps(answer))"
        run = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, env=environment.clean_environ())
        aimdo, imported, *files, prefix = json.loads(run.stdout)
        assert aimdo == imported == "0.0.7"
        import torch

        assert files == [pytest.__file__, torch.__file__]
        assert hosts.is_environment(Path(prefix)) and not hosts.is_environment(Path(sys.base_prefix))
        for wheel in (shelf / "wheels").iterdir():
            wheel.unlink()


@pytest.mark.programs
def test_a_frontend_is_installed_alone(shelf):
    page = hosts.frontend("0.0.7", Path(sys.executable))
    assert page == shelf / "cache" / "frontend-0.0.7" / "comfyui_frontend_package" / "static"
    assert (page.parent / "data").read_bytes() == b"of the wheel"
