"""Set up, then check the whole project: ruff, its formatter, types by pyright, and every test.

python tools/test.py            everything
python tools/test.py --fast     ruff and the quick files of every room, in less than three minutes
python tools/test.py --setup    set up and stop
python tools/test.py -k story   ruff, and pytest with these arguments

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


def main(arguments: list[str]) -> int:
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
