"""Set up, then check the whole project: ruff, its formatter, types by pyright, and every test.

python tools/test.py            everything
python tools/test.py --fast     ruff and the quick files of every room, in less than three minutes
python tools/test.py --setup    set up and stop
python tools/test.py -k story   ruff, and pytest with these arguments
python tools/test.py --host 0.20.1 [ARGUMENTS]        pytest alone, on another ComfyUI (tools/hosts.py)
python tools/test.py --frontend 1.58.1 [ARGUMENTS]    pytest alone, with another frontend before the servers of tests

The first two share one queue of test files between two processes, the longest first (tests/harness/file_queue.py). The
results are in .cache/test-results.xml, and the time of each file and the memory of the run are printed at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment

WORKERS = 2
QUEUE = ["-n", str(WORKERS), f"--junit-xml={environment.CACHE / 'test-results.xml'}", "--durations=40"]
FAST = ["-m", "not programs", "--fast"]


def install_chromium():
    """The browser's tests need Debian's chromium; as root it is installed, elsewhere the tests say what to do."""
    if shutil.which("chromium") or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    print("Installing Debian's chromium for the browser tests ...", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ["chromium", "fonts-dejavu-core"]
    with open(environment.LOG, "ab") as log:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            if subprocess.call(["apt-get", "-q", *command], stdout=log, stderr=subprocess.STDOUT, env=quiet):
                print(f"  apt-get {command[0]} failed, see {environment.LOG}; the browser's tests will fail")
                return


def pyright_settings() -> Path:
    """A file with those of pyproject.toml, and the host where it is."""
    path = environment.CACHE / "pyrightconfig.json"
    settings = {"extends": str(environment.ROOT / "pyproject.toml"), "extraPaths": [str(environment.find_host())]}
    path.write_text(json.dumps(settings))
    return path


def take(option: str, arguments: list[str]) -> str | None:
    """Remove an option and its value from the arguments, and return the value. Raises SetupError for one without."""
    if option not in arguments:
        return None
    at = arguments.index(option)
    if at + 1 == len(arguments) or arguments[at + 1].startswith("-"):
        raise environment.SetupError(f"{option} needs a version")
    _, value = arguments.pop(at), arguments.pop(at)
    return value


def another_host(host: str | None, frontend: str | None, arguments: list[str]) -> int:
    """pytest on a version of ComfyUI, with a version of the frontend, other than the pinned ones."""
    python, environ = environment.prepare(), environment.clean_environ()
    if host:
        python, environ["COMFYUI_PATH"] = map(str, environment.prepare_host(host))
    if frontend:
        environ["STORYREEL_FRONTEND"] = str(environment.prepare_frontend(frontend))
    return subprocess.call([str(python), "-m", "pytest", *arguments], cwd=environment.ROOT, env=environ)


def main(arguments: list[str]) -> int:
    arguments = list(arguments)
    host, frontend = take("--host", arguments), take("--frontend", arguments)
    if host or frontend:
        return another_host(host, frontend, arguments)
    python = environment.prepare()
    environment.publisher()
    install_chromium()
    if "--setup" in arguments:
        print(f"Ready: {python}")
        return 0

    def run(*module: str, **environ: str) -> int:
        print("==>", *module, flush=True)
        environ |= environment.clean_environ()
        return subprocess.call([str(python), "-m", *module], cwd=environment.ROOT, env=environ)

    checks = [run("ruff", "check"), run("ruff", "format", "--check")]
    if arguments and arguments != ["--fast"]:
        checks.append(run("pytest", *arguments))
    else:
        if not arguments:
            checks.append(run("basedpyright", "-p", str(pyright_settings()), "--pythonpath", str(python)))
        # threads of two workers that wait for each other on one processor would spend the time spinning
        threads = max(1, (os.cpu_count() or WORKERS) // WORKERS)
        checks.append(run("pytest", *QUEUE, *(FAST if arguments else ()), OMP_NUM_THREADS=str(threads)))
    return max(map(abs, checks))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
