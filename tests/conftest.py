"""Fixtures for every test: the pack as `storyreel`, a real host, tiny checkpoints, a real server, a real browser.

The pack is imported from the repository's folder under the name `storyreel`, and the repository itself stays off
sys.path, where its `nodes` would stand before the host's. Nothing of the host is imported until a test asks for it, so
`core` is tested without ComfyUI.
"""

import ctypes
import gc
import importlib.util
import signal
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path.append(str(TESTS))  # for `harness`, the only importable name in here that a test needs
sys.path.append(str(ROOT / "tools"))  # for `hosting` and `environment`


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell; programs that tests start would
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignore it, too, and some tests stop them by it


def _import_pack():
    spec = importlib.util.spec_from_file_location(
        "storyreel", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["storyreel"] = module
    spec.loader.exec_module(module)


_import_pack()


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="only files that tests/durations.json knows to be quick")


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--fast") and collection_path.name.startswith("test_"):
        from harness import file_queue

        return None if file_queue.is_fast(collection_path.relative_to(ROOT).as_posix()) else True


def pytest_configure(config):
    if config.getoption("numprocesses", None):
        from harness import file_queue

        config.pluginmanager.register(file_queue)  # its own pytest_configure is called at once


def pytest_collection_modifyitems(items):
    for item in items:
        if {"server", "browser"} & set(item.fixturenames):
            item.add_marker("programs")
        if "server" in item.fixturenames:
            item.add_marker("server")


@pytest.fixture(scope="session", autouse=True)
def _free_the_folders_name():
    """pytest imports the pack under the name of the clone's folder, which may be that of a module of tools."""
    module = sys.modules.get(ROOT.name)
    if module is not None and Path(getattr(module, "__file__", None) or "").parent == ROOT:
        del sys.modules[ROOT.name]


RUNNING_SERVER = pytest.StashKey()


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind(request):
    """Models of one module are freed before the next runs: together they would fill the memory."""
    yield
    if server := request.config.stash.get(RUNNING_SERVER, None):
        server.client().free()
    from harness.host import Host

    if Host.running:
        import comfy.model_management

        Host.running.let_go()
        comfy.model_management.unload_all_models()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """The in-process host's base directory: models/ (all hosts share it), input/, output/, user/ and so on."""
    from hosting.folders import make_base

    return make_base(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def host(base):
    """The in-process host, started once for the whole run: see `harness.host.Host`."""
    from harness.host import Host

    running = Host(base, ROOT)
    yield running
    running.close()


@pytest.fixture(scope="session")
def tiny_checkpoint(host):
    """tiny_checkpoint(name) -> path of a tiny checkpoint in models/checkpoints; names: `harness.tiny.CHECKPOINTS`."""
    from harness import tiny

    return lambda name: tiny.write(name, host.base / "models" / "checkpoints")


@pytest.fixture(scope="module")
def clip_vision(host):
    """Storyworld's image encoder: a real small one, 96 wide, as the tiny files of semantic motion expect."""
    from storyreel.host import storyworld

    storyworld.register()
    return storyworld.load_clip_vision()


@pytest.fixture(scope="session")
def server(base, tmp_path_factory, request):
    """A real `main.py` on a free loopback port with the pack in its custom_nodes: see `hosting.server.Server`."""
    from harness.pictures import write_clips, write_example
    from hosting.folders import link, make_base
    from hosting.server import Server

    folder = make_base(tmp_path_factory.mktemp("server"), models=base / "models")
    write_example(folder / "input")
    write_clips(folder / "input")
    link(folder / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
    for pack in ("memory", "small_text_encoders"):
        link(folder / "custom_nodes" / pack, TESTS / "packs" / pack)
    with Server(folder) as running:
        request.config.stash[RUNNING_SERVER] = running
        yield running
        del request.config.stash[RUNNING_SERVER]


@pytest.fixture(scope="session")
def stocked_server(server, host):
    """The server, with a tiny stand-in for every published file that a workflow asks for."""
    from harness import workflows

    workflows.write_stand_ins(host.base / "models")
    return server


@pytest.fixture
def browser():
    """A real headless browser, new for each test: see `hosting.browser.Browser`."""
    from harness.setup import open_browser

    with open_browser() as running:
        yield running
