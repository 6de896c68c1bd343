"""Set up, then check the whole project: ruff, its formatter, and every test.

python tools/test.py            everything
python tools/test.py --setup    set up and stop
python tools/test.py -k story   other arguments go to pytest
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import environment


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

    checks = [run("ruff", "check"), run("ruff", "format", "--check"), run("pytest", *arguments)]
    return max(map(abs, checks))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except environment.SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
