"""Set-up: quick when done, safe when interrupted or started twice, and one sentence when it cannot continue."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import environment
import pytest
from harness.packages import download_uv
from harness.setup import require_setup

pytestmark = pytest.mark.programs

ROOT = Path(__file__).resolve().parents[2]
VERSION = ".".join(map(str, sys.version_info[:2]))

# an index at which nobody listens, and no other source
OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "1",
    "PIP_NO_CACHE_DIR": "1",
}


@pytest.fixture
def clone(tmp_path) -> Path:
    """The files that set-up needs, in a folder without an environment."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    return tmp_path


def command(folder: Path, *arguments: str, **environ: str) -> subprocess.Popen:
    env = {**environment.clean_environ(), **environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(folder / "tools" / "test.py"), *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def python(folder: Path, code: str, **environ: str) -> str:
    """The output of `code`, with the clone's environment.py imported."""
    env = {**environment.clean_environ(), **environ, "PYTHONPATH": str(folder / "tools")}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


REFUSAL = """
try:
    {}
except environment.SetupError as error:
    print(error)
"""


def test_a_second_start_is_quick():
    require_setup()
    command(ROOT, "--setup").communicate()
    started = time.monotonic()
    out, err = command(ROOT, "--setup").communicate(timeout=300)
    assert out.split()[0] == "Ready:" and err == ""
    assert time.monotonic() - started < 20  # a tenth of a second on a quiet machine


def test_without_network_it_fails_clearly_and_restarts_next_time(clone):
    for _ in range(2):
        process = command(clone, "--setup", **OFFLINE)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert out.startswith("Setting up .venv:")
        assert "note: pip installs the packages, which takes longer: uv: the package index cannot be reached" in out
        assert err.startswith("error: PyTorch: the package index cannot be reached")
        assert err.count("\n") == 1, "one sentence, no traceback"
        assert (clone / ".venv" / "storyreel.stamp").read_text() == VERSION


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({}, "the package index cannot be reached"),
        ({"PIP_NO_INDEX": "1"}, "the package index has no pinned version for this Python"),
    ],
    ids=["unreachable", "without torch"],
)
def test_where_uv_finds_no_torch_it_fails_clearly(clone, tmp_path_factory, index, reason):
    wheel = download_uv(tmp_path_factory.mktemp("uv"))
    process = command(clone, "--setup", **{**OFFLINE, **index, "PIP_FIND_LINKS": str(wheel.parent)})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "note" not in out
    assert err.startswith(f"error: PyTorch: {reason}") and err.count("\n") == 1
    assert (clone / ".venv" / "storyreel.stamp").read_text() == VERSION


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_after_an_interrupt_it_restarts(clone):
    process = command(clone, "--setup")
    while (clone / ".venv" / "pyvenv.cfg").exists() is False:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""
    assert python(clone, "import environment as e; print(e._is_ready(e.environment_folder()))") == "False\n"
    out, _ = command(clone, "--setup", **OFFLINE).communicate(timeout=300)
    assert out.startswith("Setting up .venv:")


@pytest.mark.skipif(os.name == "nt", reason="the test holds the lock by POSIX means")
def test_two_at_once_wait_for_each_other(clone):
    import fcntl

    (clone / ".cache").mkdir()
    with open(clone / ".cache" / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = command(clone, "--setup", **OFFLINE)
        assert process.stdout.readline().startswith("Another set-up is running here")
        assert not (clone / ".venv").exists()
    assert process.stdout.readline().startswith("Setting up .venv:")
    process.communicate(timeout=300)


def test_an_environment_of_somebody_else_is_left_alone(clone):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "theirs").write_text("precious")
    out, _ = command(clone, "--setup", **OFFLINE).communicate(timeout=300)
    assert out.startswith(f"Setting up .venv-{VERSION}:")
    assert [path.name for path in (clone / ".venv").iterdir()] == ["theirs"]


@pytest.mark.parametrize("version", [(3, 9), (3, 13)])
def test_another_python_is_refused(clone, version):
    code = f"import sys; sys.version_info = {version}; import environment\n" + REFUSAL.format("environment.prepare()")
    message = python(clone, code)
    assert message == f"StoryReel needs Python 3.10 to 3.12, and this is 3.{version[1]}: start it with one of those.\n"


def test_a_full_disk_is_refused_before_anything_is_written(clone):
    code = "import environment; environment.DISK_GB = 10**9\n" + REFUSAL.format("environment.prepare()")
    assert "GB of free disk" in python(clone, code)
    assert not (clone / ".venv").exists()


def test_a_comfyui_path_without_comfyui_is_named(clone):
    code = "import environment\n" + REFUSAL.format("environment.find_host()")
    message = python(clone, code, COMFYUI_PATH=str(clone))
    assert message == f"COMFYUI_PATH is {clone}, and there is no ComfyUI (no main.py) in it.\n"


def test_an_archive_with_another_hash_is_refused(clone):
    spoil = "import sys, environment, hosts; hosts.ARCHIVES['0.30.0'] = hosts.Archive('2.6.0', '0' * 64)\n"
    spoil += "environment.CACHE.mkdir()\n"
    message = python(clone, spoil + REFUSAL.format("hosts.unpack('0.30.0', environment.Path(sys.executable))"))
    assert "SHA-256 differs" in message
    assert not (clone / ".cache" / "host-0.30.0").exists()


def test_torchvision_and_torchaudio_work_with_this_torch():
    """They are CUDA builds: a torch without CUDA needs torch_cpu_shim.py before it can import them."""
    import torch
    import torchaudio
    import torchvision
    from torchvision.transforms import v2

    assert v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
    assert torchvision.models.resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert torchaudio.functional.resample(torch.zeros(1, 100), 100, 50).shape == (1, 50)
