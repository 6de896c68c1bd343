"""One step of a set-up: a command with its output in the log, and one sentence when it fails. Standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
LOG = CACHE / "setup.log"


class SetupError(Exception):
    """Set-up cannot go on; the message is one sentence for the user."""


def clean_environ() -> dict[str, str]:
    """The process environment without what would mix another Python's modules into ours."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def run(name: str, command: list[str], **variables: str):
    """Run a command with its output in the log, and show progress. Raises SetupError with the reason."""
    print(f"  {name} ...", end="", flush=True)
    started = time.monotonic()
    LOG.parent.mkdir(exist_ok=True)
    environ = clean_environ() | variables
    with open(LOG, "ab") as log:
        first = log.tell()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environ)
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


REASONS = (  # in the words of pip, of uv and of the systems
    (r"No space left on device|Errno 28|os error (28|112)\)", "the disk is full"),
    (
        r"Temporary failure in name resolution|Name or service not known|getaddrinfo failed|Network is unreachable"
        r"|Failed to establish a new connection|Connection refused|ConnectTimeout|Max retries exceeded|ProxyError"
        r"|client error \(Connect\)|operation timed out|error sending request for url",
        "the package index cannot be reached (no network?)",
    ),
    (
        r"DO NOT MATCH THE HASHES|Hash mismatch for",
        "the downloaded archive is not the pinned one (its SHA-256 differs)",
    ),
    (
        r"No matching distribution found|ResolutionImpossible|No solution found when resolving dependencies",
        "the package index has no pinned version for this Python, or cannot be reached",
    ),
    (r"ensurepip is not available", "Python has no venv module (Debian: apt-get install python3-venv)"),
)


def _reason(name: str, output: str) -> str:
    for pattern, reason in REASONS:
        if re.search(pattern, output):
            return f"{name}: {reason}; the details are in {LOG}."
    output = re.sub(r"\n[ \t]+(?=\S)", " ", output)  # uv folds a long line
    lines = [line for line in output.splitlines() if line.upper().startswith("ERROR")] or output.splitlines()
    last = re.sub("^error: ", "", lines[-1] if lines else "no output", flags=re.IGNORECASE)
    return f"{name}: {last}; the details are in {LOG}."
