"""The rules of the house: which room may import what, what every node owes, what the package declares."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "host", "nodes")
SHIPPED = [ROOT / "__init__.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]

# the host's own top-level modules, as far as a pack could want them
COMFY_API = {"comfy_api"}
INSIDE_COMFY = {"comfy", "comfy_execution", "comfy_extras", "comfy_config", "folder_paths", "node_helpers", "nodes"}
INSIDE_COMFY |= {"execution", "latent_preview", "server", "utils", "app", "comfyui_version"}

MAY_IMPORT = {  # room: (rooms of the pack, modules of the host)
    "core": ({"core"}, set()),
    "host": ({"core", "host"}, COMFY_API | INSIDE_COMFY),
    "nodes": ({"core", "host", "nodes"}, COMFY_API),
    "__init__": ({"nodes"}, COMFY_API),
}


def forbidden_imports(path: Path, source: str) -> list[str]:
    """Imports of the file at `path`, relative to the repository, against the arrows nodes -> host -> core."""
    package = ["storyreel", *path.parent.parts]
    room = path.parts[0].removesuffix(".py")
    rooms, modules = MAY_IMPORT[room]
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            names = [base + [alias.name] for alias in node.names] if len(base) < 2 else [base]
            wrong += [".".join(name) for name in names if name[0] != "storyreel" or name[1] not in rooms]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            ours_or_host = {"storyreel", "core", "host", "tests", "tools"} | COMFY_API | INSIDE_COMFY
            wrong += [name for name in names if name.split(".")[0] in ours_or_host - modules]
    return wrong


# Rooms of host/ and core/: what each may import of its own floor. A room is a folder, or a file next to the folders.
BELOW = {
    "host/common": set(),
    "host/video": {"host/common"},
    "host/attention": {"host/common", "host/video"},
    "host/metrics": {"host/common", "host/video"},
    "host/dynamicrafter": {"host/common", "host/video"},
    "host/streaming": {"host/common", "host/video"},
    "core/text": set(),
    "core/rng": set(),
    "core/inputs": {"core/text"},
    "core/plot": set(),
    "core/story": {"core/text"},
    "core/video": {"core/story"},
    "core/training": {"core/video"},
    "core/weights": {"core/text", "core/inputs"},
    "core/motion": {"core/plot"},
    "core/networks": {"core/text", "core/weights", "core/motion"},
    "core/attention": {"core/text", "core/rng", "core/weights", "core/networks", "core/story"},
    "core/diffusion": {"core/rng"},
    "core/metrics": {"core/plot", "core/story", "core/video"},
    "core/storyworld": set(),
}
SYSTEMS = {"host/common", "host/video", "host/attention", "host/metrics", "host/dynamicrafter", "host/streaming"}
BELOW |= dict.fromkeys(("host/story", "host/extend", "host/motion"), SYSTEMS)
BELOW["host/storyworld_video"] = {"host/dynamicrafter"}
BELOW["host/storyworld_transformer"] = set()
BELOW["host/storyworld"] = SYSTEMS | {"host/story", "host/extend", "host/motion"}
BELOW["host/storyworld"] |= {"host/storyworld_video", "host/storyworld_transformer"}


def room_of(parts: tuple[str, ...] | list[str]) -> str:
    return "/".join(parts[:2]).removesuffix(".py")


def arrows_upwards(path: Path, source: str) -> list[str]:
    """Rooms of its own floor that the file must not import, and does: see BELOW."""
    floor, room = path.parts[0], room_of(path.parts)
    if floor not in ("host", "core") or len(path.parts) == 2 and path.stem == "__init__":
        return []
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*path.parent.parts[: len(path.parts) - node.level], *(node.module or "").split(".")]
            names = [[part for part in base if part] + [alias.name] for alias in node.names]
            imported |= {room_of(name) for name in names if name[0] == floor}
    return sorted(imported - {room} - BELOW[room])


def node_ids(path: Path, source: str) -> list[str]:
    """Ids of the pack's nodes in a file of host/ or core/, where none may appear."""
    return [] if path.parts[0] not in ("host", "core") else re.findall(r"\bStoryReel(?!Sans)[A-Z]\w*", source)


def test_rooms_import_only_rooms_below():
    rooms = {room_of(path.relative_to(ROOT).parts) for path in SHIPPED}
    assert {room for room in rooms if room.startswith(("host/", "core/")) and not room.endswith("__init__")} == set(
        BELOW
    )
    assert offenders(arrows_upwards) == {}


def test_the_table_of_rooms_has_no_circle():
    left = dict(BELOW)
    while free := [room for room, below in left.items() if not below & set(left)]:
        for room in free:
            del left[room]
    assert left == {}


def test_node_ids_are_known_in_nodes_alone():
    assert offenders(node_ids) == {}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("host/common/a.py", "from ..storyworld import path_of"),
        ("host/common/a.py", "from .. import storyworld"),
        ("host/story/a.py", "def f():\n    from ..motion.apply import g"),
        ("host/video/file.py", "from ..story import shots"),
        ("core/weights/a.py", "from ..networks.unet import UNet"),
        ("core/networks/unet/a.py", "from ...storyworld import world"),
        ("core/rng.py", "from .attention import draws"),
    ],
)
def test_an_arrow_between_rooms_is_reported(path, source):
    assert arrows_upwards(Path(path), source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("host/story/a.py", "from ..common.folders import inside\nfrom . import styles\nfrom ...core import inputs"),
        ("host/storyworld.py", "from .streaming import loader\nfrom ..core.storyworld import world"),
        ("core/networks/dynamicrafter/unet.py", "from ..blocks import fold\nfrom ...weights import refusal"),
    ],
)
def test_an_arrow_down_passes(path, source):
    assert arrows_upwards(Path(path), source) == []


def offenders(check) -> dict[str, list]:
    """{shipped file: the list of `check(path, source)`} of the files with a list that is not empty."""
    names = (path.relative_to(ROOT) for path in SHIPPED)
    reports = {name.as_posix(): check(name, (ROOT / name).read_text(encoding="utf-8")) for name in names}
    return {name: entries for name, entries in reports.items() if entries}


def test_arrows_run_one_way():
    assert len(SHIPPED) > 100 and offenders(forbidden_imports) == {}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/a.py", "import comfy.utils"),
        ("core/a.py", "def f():\n    from folder_paths import models_dir"),
        ("core/video/a.py", "from ...host import attention"),
        ("core/video/a.py", "from ... import nodes"),
        ("core/a.py", "from comfy_api.latest import io"),
        ("core/a.py", "from core.story import script"),
        ("host/a.py", "from ..nodes.types import StoryType"),
        ("nodes/a.py", "import node_helpers"),
        ("nodes/a.py", "import torch, comfy.samplers"),
        ("__init__.py", "from .core import attention"),
    ],
)
def test_a_wrong_arrow_is_reported(path, source):
    assert forbidden_imports(Path(path), source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/video/a.py", "import torch\nfrom ..story.story import Story\nfrom . import frames"),
        ("host/a.py", "import comfy.utils\nfrom ..core import attention"),
        (
            "nodes/a.py",
            "from comfy_api.latest import io\nfrom ..host.attention import patch\nfrom .types import StoryType",
        ),
    ],
)
def test_a_right_arrow_passes(path, source):
    assert forbidden_imports(Path(path), source) == []


def test_core_needs_no_host(tmp_path):
    """All of core imports in a process that has no ComfyUI and no repository on its path."""
    code = f"""
import importlib, importlib.util, pathlib, sys

root = pathlib.Path({str(ROOT)!r})
class NoComfy:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(COMFY_API | INSIDE_COMFY)!r}:
            raise ImportError("core asked for " + name)
sys.meta_path.insert(0, NoComfy())
spec = importlib.util.spec_from_file_location("storyreel", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["storyreel"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["storyreel"])
assert not any(pathlib.Path(entry or ".").resolve() == root for entry in sys.path)
for path in sorted((root / "core").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(("storyreel", *(part for part in parts if part != "__init__")))
    importlib.import_module(name)
    print(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(list((ROOT / "core").rglob("*.py")))


def test_importing_the_pack_imports_nothing(tmp_path):
    """The entry does no work: the host lists a pack before it knows whether anyone will use it."""
    code = f"""
import sys
before = set(sys.modules)
exec(compile(open({str(ROOT / "__init__.py")!r}).read(), "door", "exec"), {{"__name__": "door"}})
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
    assert len((ROOT / "__init__.py").read_text().splitlines()) < 40


# Errors of patches reach the user from the node that samples, so they begin with the title of the node that set them.
RAISED_BY_PATCHES = {
    "host/attention/bank_model.py": ["check_size"],
    "host/attention/found_regions.py": ["begin"],
    "host/attention/patch.py": ["_check_batch"],
    "host/attention/recording.py": ["recording"],
    "host/attention/regions.py": ["check"],
    "host/dynamicrafter/sampling.py": ["__init__"],
    "host/motion/animatediff.py": ["inserted_modules"],
    "host/motion/apply.py": ["around", "around_model"],
    "host/streaming/blending.py": ["execute"],
}


def titled_errors(path: Path, source: str) -> list[str]:
    """Functions that raise an error which begins with a node's title, as a text or as the constant NODE."""
    texts = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "nodes").glob("*.py"))
    titles = tuple(f"{title}: " for title in re.findall(r'display_name="(.+) \(StoryReel\)"', texts))
    titled = {}  # by statement: the innermost function comes last
    for function in ast.walk(ast.parse(source)):
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = re.sub(r"^f?['\"]", "", ast.unparse(node.exc.args[0]))
                if text.startswith(("{NODE}: ", *titles)):
                    titled[node] = function.name
    return sorted(set(titled.values()))


def test_the_title_of_a_node_is_put_before_its_errors_once():
    assert titled_errors(Path("host/a.py"), "def f():\n    raise ValueError(f'{NODE}: x')") == ["f"]
    assert titled_errors(Path("host/a.py"), "def f():\n    raise ValueError('Extend Video: x')") == ["f"]
    assert offenders(titled_errors) == RAISED_BY_PATCHES


def lines_that_print(path: Path, source: str) -> list[int]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_shipped_code_logs_and_never_prints():
    assert lines_that_print(Path("core/a.py"), "x = 1\nif x:\n    print(x)") == [3]
    assert offenders(lines_that_print) == {}


@pytest.fixture(scope="module")
def pack_nodes(host) -> dict:
    """{node id: class} of the host's nodes that come from the pack."""
    assert host.pack_loaded, host.pack_log
    nodes = {name: cls for name, cls in host.nodes.items() if cls.__module__.startswith("storyreel.")}
    assert nodes
    return nodes


def test_node_ids_are_ours(pack_nodes):
    assert [name for name in pack_nodes if not name.startswith("StoryReel")] == []
    for name, cls in pack_nodes.items():
        schema = cls.GET_SCHEMA()
        assert schema.node_id == name
        assert schema.display_name and schema.description and schema.category.startswith("StoryReel"), name


def test_every_input_and_output_has_a_tooltip(pack_nodes):
    """Those inside a dynamic combo's options and of an autogrow's template too."""

    def silent(inputs):
        for entry in inputs:
            if not getattr(entry, "tooltip", None):
                yield entry.id
            for option in getattr(entry, "options", None) or []:
                yield from silent(getattr(option, "inputs", []))

    for name, cls in pack_nodes.items():
        schema = cls.GET_SCHEMA()
        assert list(silent(schema.inputs)) == [], name
        assert [output.display_name or output.id for output in schema.outputs if not output.tooltip] == [], name


def test_every_node_has_a_help_page_and_every_page_a_node(pack_nodes):
    pages = {path.stem: path for path in (ROOT / "js" / "docs").glob("*.md")}
    offered = [name for name, cls in pack_nodes.items() if not cls.GET_SCHEMA().is_dev_only]
    assert sorted(pages) == sorted(offered)
    assert [name for name, page in pages.items() if len(page.read_text(encoding="utf-8")) < 300] == []


def test_the_page_takes_every_script(server, browser):
    """The frontend imports every .js under js/: each is served, parses and runs."""
    ours = "/extensions/ComfyUI-StoryReel/"
    served = [path for path in server.client().get("/extensions") if path.startswith(ours)]
    files = [path.relative_to(ROOT / "js").as_posix() for path in (ROOT / "js").rglob("*.js")]
    assert sorted(path.removeprefix(ours) for path in served) == sorted(files)
    frontend = browser.open(server.url)
    for path in served:
        frontend.page.evaluate("path => import(path)", path)
    assert frontend.errors == []


def requirement_lines() -> list[str]:
    return (ROOT / "requirements.txt").read_text().splitlines()


def test_requirements_follow_the_managers_rules():
    """It installs each line by itself, into the host's environment: a plain name, no pin, never torch."""
    for line in requirement_lines():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*(>=[0-9.]+)?", line), line
        assert not line.lower().startswith("torch"), line


def test_the_registry_sees_the_same_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dependencies"] == requirement_lines()
    assert [folder for folder in project["tool"]["comfy"]["includes"] if not (ROOT / folder).is_dir()] == []


IMPORT_NAMES = {"open-clip-torch": "open_clip", "Pillow": "PIL", "fonttools": "fontTools"}


def required_modules() -> set[str]:
    names = (re.split("[>=]", line)[0] for line in requirement_lines())
    return {IMPORT_NAMES.get(name, name) for name in names}


def imported_modules(source: str) -> set[str]:
    """Modules outside the pack that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])
    return modules


def test_every_requirement_is_imported_by_what_ships():
    source = "import a.b\ndef f():\n    from c import d\n    from .e import f\n    from . import g"
    assert imported_modules(source) == {"a", "c"}
    imported = set().union(*(imported_modules(path.read_text(encoding="utf-8")) for path in SHIPPED))
    assert {"einops", "open_clip", "transformers"} <= required_modules()
    assert required_modules() - imported == set()


def test_what_is_imported_at_the_top_is_required():
    """A module outside requirements.txt may be imported by the node that needs it, never by the pack as a whole."""
    known = required_modules()
    known |= {"torch", "av", *COMFY_API, *INSIDE_COMFY, *sys.stdlib_module_names}  # torch and av come with the host
    for path in SHIPPED:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= known, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in known, path
