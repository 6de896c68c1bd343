"""One queue of test files for the workers of pytest-xdist, the longest first; and what the run cost.

The first worker begins with the files that share the run's server and browser, the others with those that need none, so
that a run usually holds one server. `tests/durations.json` gives the order: {file: [seconds, kind]}. Every run writes
its own table to `.cache/test-durations.json`; copy it over the other when the order no longer fits.
"""

import json
import threading
from collections import defaultdict
from pathlib import Path

import psutil
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[2]
RECORDED, MEASURED = ROOT / "tests" / "durations.json", ROOT / ".cache" / "test-durations.json"
KINDS = ("plain", "programs", "server")  # also the markers of the last two
UNKNOWN_SECONDS = 60  # of a new file: early, so that it does not end the run alone
FAST_SECONDS = 16
SAMPLE_SECONDS = 5  # the system walks all pages for a sample


def recorded() -> dict[str, tuple[float, str]]:
    """{file: (seconds, kind)}"""
    return {file: tuple(entry) for file, entry in json.loads(RECORDED.read_text(encoding="utf-8")).items()}


def is_fast(file: str) -> bool:
    """Whether a run of the quick files takes it: those that are new, too."""
    seconds, _ = recorded().get(file, (0, KINDS[0]))
    return seconds <= FAST_SECONDS


def rank(file: str, table: dict[str, tuple[float, str]], first_worker: bool) -> tuple[int, float]:
    """Sorts files in the order in which a worker takes them."""
    seconds, kind = table.get(file, (UNKNOWN_SECONDS, KINDS[0]))
    level = KINDS.index(kind)
    return -level if first_worker else level, -seconds


class Queue(LoadScopeScheduling):
    """Hands out whole files, so that each module's fixtures are built once."""

    def __init__(self, config, log):
        super().__init__(config, log)
        self.table = recorded()

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node):
        first = node.gateway.id == "gw0"
        self.workqueue.move_to_end(min(self.workqueue, key=lambda file: rank(file, self.table, first)), last=False)
        super()._assign_work_unit(node)


class Costs:
    """Adds up the seconds of each file and watches the memory of this process and all below it."""

    def __init__(self):
        self.seconds, self.kinds = defaultdict(float), {}
        self.peak, self.peak_tests = 0, []
        self.running = {}  # {file: the test that runs}
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while not self._ended.wait(SAMPLE_SECONDS):
            used = memory(psutil.Process())
            if used > self.peak:
                self.peak, self.peak_tests = used, sorted(self.running.values())

    def pytest_runtest_logstart(self, nodeid):
        self.running[nodeid.partition("::")[0]] = nodeid

    def pytest_runtest_logreport(self, report):
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        kind = next((kind for kind in reversed(KINDS) if kind in report.keywords), KINDS[0])
        self.kinds[file] = max(kind, self.kinds.get(file, kind), key=KINDS.index)
        if report.when == "teardown":
            self.running.pop(file, None)

    def pytest_terminal_summary(self, terminalreporter):
        self._ended.set()
        table = {file: (round(self.seconds[file], 1), self.kinds[file]) for file in sorted(self.seconds)}
        MEASURED.parent.mkdir(exist_ok=True)
        MEASURED.write_text(as_json(table), encoding="utf-8")
        terminalreporter.section("seconds by file")
        for file, (seconds, kind) in sorted(table.items(), key=lambda entry: -entry[1][0]):
            if seconds >= 1:
                terminalreporter.write_line(f"{seconds:7.1f}  {kind:8}  {file}")
        terminalreporter.write_line(f"{sum(self.seconds.values()):7.1f}  all {len(table)} files")
        terminalreporter.write_line(f"peak memory {self.peak / 1e9:.1f} GB, in {' and '.join(self.peak_tests)}")


def as_json(table: dict) -> str:
    """One line a file."""
    return "{\n" + ",\n".join(f"  {json.dumps(file)}: {json.dumps(entry)}" for file, entry in table.items()) + "\n}\n"


def memory(root: psutil.Process) -> int:
    """Bytes in use by a process and all that it started; shared memory counts once where the system reports it."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            used = process.memory_full_info()
        except psutil.Error:  # it has just ended
            continue
        total += getattr(used, "pss", used.rss)
    return total


def pytest_xdist_make_scheduler(config, log):
    return Queue(config, log)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Costs())
