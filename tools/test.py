"""Set up, then check the whole project: ruff, its formatter, and every test.

python tools/test.py            everything
python tools/test.py --setup    set up and stop
python tools/test.py -k story   other arguments go to pytest

Everything is two runs of pytest side by side: one of the tests that start programs (marker `programs`) and mostly wait
for them, one of the others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import environment

PROGRAMS_LOG = environment.CACHE / "test-programs.log"


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


def main(arguments: list[str]) -> int:
    python = environment.prepare()
    environment.publisher()
    install_chromium()
    if "--setup" in arguments:
        print(f"Ready: {python}")
        return 0

    def run(*module: str) -> int:
        print("==>", *module, flush=True)
        return subprocess.call([str(python), "-m", *module], cwd=environment.ROOT, env=environment.clean_environ())

    checks = [run("ruff", "check"), run("ruff", "format", "--check")]
    checks.append(run("pytest", *arguments) if arguments else run_both([str(python), "-m", "pytest", "--durations=40"]))
    return max(map(abs, checks))


def run_both(pytest: list[str]) -> int:
    """Every test; the output of the programs' run comes after that of the other.

    Each gets half of the processors: threads of both that wait for each other on one would spend the time spinning.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
    where = dict(cwd=environment.ROOT, env=threads | environment.clean_environ())
    with open(PROGRAMS_LOG, "w") as log:
        programs = subprocess.Popen([*pytest, "-m", "programs"], stdout=log, stderr=subprocess.STDOUT, **where)
    try:
        print("==> pytest -m 'not programs', and beside it pytest -m programs", flush=True)
        code = subprocess.call([*pytest, "-m", "not programs"], **where)
        print("==> pytest -m programs", flush=True)
        follow(programs)
    except BaseException:
        programs.kill()
        raise
    return max(abs(code), abs(programs.returncode))


def follow(programs: subprocess.Popen):
    """Show what the run wrote, and what it writes until it ends."""
    with open(PROGRAMS_LOG, errors="replace") as log:
        while programs.poll() is None:
            print(log.read(), end="", flush=True)
            time.sleep(0.5)
        print(log.read(), end="", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
