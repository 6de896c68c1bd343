"""The project's own environment: a virtual environment with pinned packages, and a ComfyUI to run in it.

Standard library only. `prepare()` installs what is missing and is quick when nothing is. The environment is `.venv`; if
there is a `.venv` of another Python or of another program, it is `.venv-3.12` or the like. The host is COMFYUI_PATH, or
else a pinned archive of ComfyUI's source, unpacked in `.cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __package__:  # experiments/ import tools as a package; the commands in tools/ run in its folder
    from . import hosts, installer, steps
else:
    import hosts
    import installer
    import steps

SetupError = steps.SetupError
clean_environ = steps.clean_environ

ROOT, CACHE, LOG = steps.ROOT, steps.CACHE, steps.LOG
REQUIREMENTS = ROOT / "tools" / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
PACKAGES = (REQUIREMENTS / "host.txt", ROOT / "requirements.txt", REQUIREMENTS / "tests.txt")
PUBLISHER = REQUIREMENTS / "publisher.txt"
SHIM = ROOT / "tools" / "torch_cpu_shim.py"

VERSION = ".".join(map(str, sys.version_info[:2]))
BASE_PYTHON = sys._base_executable  # not the environment's own, which may be about to be replaced
SUPPORTED = ((3, 10), (3, 12))
DISK_GB = 4  # a CPU torch and the rest take 2.5; a CUDA torch takes 7, and set-up fails later if that does not fit
HOST = hosts.folder(hosts.PINNED)


def prepare() -> Path:
    """Install what is missing of environment and host; returns the environment's Python. Raises SetupError."""
    lowest, highest = SUPPORTED
    if not lowest <= sys.version_info[:2] <= highest:
        raise SetupError(f"StoryReel needs Python 3.10 to 3.12, and this is {VERSION}: start it with one of those.")
    venv = environment_folder()
    if _is_ready(venv) and _host_is_here():
        return interpreter(venv)
    CACHE.mkdir(exist_ok=True)
    with _lock():  # a second set-up at the same time waits here, then finds everything installed
        if not _is_ready(venv):
            _make_environment(venv)
        if not _host_is_here():
            hosts.unpack(hosts.PINNED, interpreter(venv))
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


def prepare_host(version: str) -> tuple[Path, Path]:
    """Install what another version of the host needs; returns the Python and the folder for it. Raises SetupError."""
    folder = hosts.folder(version)
    python = prepare()
    with _lock():
        hosts.unpack(version, python)
        return python if version == hosts.PINNED else hosts.environment(version, python), folder


def prepare_frontend(version: str) -> Path:
    """Install another frontend; returns the folder for the host's `--front-end-root`. Raises SetupError."""
    python = prepare()
    with _lock():
        return hosts.frontend(version, python)


def _host_is_here() -> bool:
    return bool(os.environ.get("COMFYUI_PATH")) or HOST.is_dir()


def environment_folder() -> Path:
    venv = ROOT / ".venv"
    if venv.exists() and _stamp(venv)[:1] != [VERSION]:
        return ROOT / f".venv-{VERSION}"
    return venv


def _stamp(venv: Path) -> list[str]:
    """[Python's version, digest of the recipe], [version] if incomplete, [] for a folder that set-up did not create."""
    path = venv / "storyreel.stamp"
    return path.read_text().split() if path.is_file() else []


def rerun(program: str, arguments: list[str]) -> int | None:
    """Prepare the environment and run `program` in it: its exit code.

    None where this is that environment already, or one of another host.
    """
    python = prepare()
    prefix = Path(sys.prefix)
    if prefix.resolve() == python.parent.parent.resolve() or hosts.is_environment(prefix):
        return None
    return subprocess.call([str(python), program, *arguments], env=clean_environ())


def interpreter(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _wanted() -> str:
    """A digest of everything that determines an environment: if it changes, the environment is built again."""
    digest = hashlib.sha256(f"{sys.version}\n{os.path.realpath(sys.base_prefix)}\n".encode())
    for path in (CONSTRAINTS, *PACKAGES, SHIM, Path(installer.__file__), Path(__file__)):
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
    print(f"Setting up {venv.relative_to(ROOT)}: once, a few minutes; the details go to {LOG.relative_to(ROOT)}")
    install = _create(venv, CONSTRAINTS)
    # torchvision and torchaudio would choose another torch, so torch is first and they come without dependencies
    install("PyTorch", "torch")
    install("torchvision, torchaudio", "--no-deps", "torchvision", "torchaudio")
    install("the host's packages, ours, the tests'", *(part for path in PACKAGES for part in ("-r", str(path))))
    # without dependencies: it asks for old releases of PyTorch and NumPy, and works with these
    install("facenet-pytorch", "--no-deps", "facenet-pytorch")
    _fit_to_torch(venv)
    # last: without the digest the next start builds the environment again
    (venv / "storyreel.stamp").write_text(f"{VERSION} {_wanted()}")


def publisher() -> Path:
    """`comfy`, which checks and packs what the registry gets, from an environment of its own in `.cache`."""
    venv = CACHE / f"comfy-cli-{VERSION}"
    stamp, wanted = venv / "storyreel.stamp", PUBLISHER.read_text()
    if not (stamp.is_file() and stamp.read_text() == wanted):
        CACHE.mkdir(exist_ok=True)
        with _lock():
            shutil.rmtree(venv, ignore_errors=True)
            print("Setting up comfy-cli")
            _create(venv, PUBLISHER)("its packages", "-r", str(PUBLISHER))
            stamp.write_text(wanted)
    return interpreter(venv).with_name("comfy.exe" if os.name == "nt" else "comfy")


def _create(venv: Path, pins: Path) -> Callable[..., None]:
    """Create an environment; returns install(name, *arguments), by uv where it can do what pip is set to do."""
    steps.run("environment", [BASE_PYTHON, "-m", "venv", str(venv)])
    python, pinned = str(interpreter(venv)), ("-c", str(pins))
    command, variables = [python, *"-m pip install --no-input --progress-bar off".split()], {}
    try:
        steps.run("uv", [*command, *pinned, "--only-binary", ":all:", "uv"])
        command, variables = installer.uv_install(python, clean_environ())
    except (installer.NotForUv, SetupError) as error:
        print(f"  note: pip installs the packages, which takes longer: {error}")
    return lambda name, *arguments: steps.run(name, [*command, *pinned, *arguments], **variables)


def _fit_to_torch(venv: Path):
    """Let the CUDA-linked torchvision and torchaudio be imported with a torch without CUDA: see torch_cpu_shim.py."""
    ask = "import sysconfig, torch; print(torch.version.cuda or ''); print(sysconfig.get_path('purelib'))"
    cuda, site = _ask(interpreter(venv), ask).splitlines()
    if cuda:
        return
    shutil.copy(SHIM, site)
    (Path(site) / "torch_cpu_shim.pth").write_text("import torch_cpu_shim\n")
    for library in Path(site, "torchaudio", "lib").glob("*.so"):
        library.unlink()  # torchaudio takes a missing library for "not built", but not one that cannot load
    if shutil.which("nvidia-smi"):
        print("  note: this machine has an NVIDIA driver, but the installed torch has no CUDA; all runs on the CPU")


def _ask(python: Path, code: str) -> str:
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=clean_environ())
    if answer.returncode:
        raise SetupError(f"the new environment does not work: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One set-up at a time; the system releases the lock when its holder dies."""
    with open(CACHE / "setup.lock", "w") as file:
        if not _try_lock(file):
            print("Another set-up is running here; waiting for it ...", flush=True)
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
