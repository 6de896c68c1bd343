"""Nothing in the pack or its tools is unused: each name is read outside its own definition, and outside the tests.

A name counts as used where it is read: as a variable, as an attribute, as a keyword, or in a string that is no
docstring. Names that the host, pytest or a base class calls are listed below, with who does.
"""

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST_STRING = 400  # letters; longer ones are texts

CALLED_BY_NAME = {  # and the one name that only fills its place
    "WEB_DIRECTORY": "the host, of a pack",
    "comfy_entrypoint": "the host, of a pack",
    "on_load": "the host, of an extension",
    "get_node_list": "the host, of an extension",
    "define_schema": "the host, of a node",
    "validate_inputs": "the host, of a node",
    "fingerprint_inputs": "the host, of a node",
    "check_lazy_status": "the host, of a node",
    "add_hook_patches": "the host, of a clip",
    "tokenize_with_weights": "the host, of a tokenizer",
    "forward": "torch, of a network",
    "process_cond": "the host, of a condition",
    "predict_noise": "the host, of a guider",
    "generate_noise": "the host, of a noise",
    "inverse_noise_scaling": "the host, of a schedule",
    "memory_usage_factor": "the host, of a model's configuration",
    "unet_extra_config": "the host, of a model's configuration",
    "should_use_context": "the host, of a context handler",
    "combine_context_window_results": "the host, of a context handler",
    "get_frame_count": "the host, of a video",
    "OUTPUT": "nobody: a place in a saved link, between those that are read",
}
FOR_TOOLS = {  # of the pack, but called by what trains or measures its models
    "core/networks/modelscope/keys.py": "tools/rename_lora.py",
    "core/storyworld": "experiments/storyworld",
    "core/diffusion/blending.py": "experiments/storyworld",
    "core/story/story.py": "tools/demo.py",
}
SHIPPED, TOOLS = ("core", "host", "nodes"), ("tools", "experiments")


@cache
def sources() -> dict[str, str]:
    """{path: text} of every Python file of the repository."""
    files = [
        ROOT / "__init__.py",
        *(path for room in (*SHIPPED, *TOOLS, "tests") for path in (ROOT / room).rglob("*.py")),
    ]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


parse = cache(ast.parse)


@cache
def reads(node: ast.AST) -> Counter:
    """How often each name is read in a piece of code."""
    docstrings = {
        id(body[0].value)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Module | ast.ClassDef | ast.FunctionDef) and (body := inner.body)
        if isinstance(body[0], ast.Expr)
    }
    found = Counter()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name | ast.Attribute) and isinstance(inner.ctx, ast.Load):
            found[inner.id if isinstance(inner, ast.Name) else inner.attr] += 1
        elif isinstance(inner, ast.keyword) and inner.arg:
            found[inner.arg] += 1
        elif isinstance(inner, ast.MatchClass):
            found.update(inner.kwd_attrs)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str) and id(inner) not in docstrings:
            if len(inner.value) <= LONGEST_STRING:
                found.update(re.findall(r"[A-Za-z_]\w*", inner.value))
    return found


def definitions(body: list[ast.stmt], prefix: str = ""):
    """(qualified name, name, statement) of the functions, classes, methods and constants in a body."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        yield prefix + name.id, name.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from definitions([*node.body, *getattr(node, "orelse", [])], prefix)


def unused(files: dict[str, str]) -> dict[str, list[str]]:
    """{path: names} that nothing reads but their own definition, tests, or, of the shipped rooms, tools."""
    trees = {path: parse(text) for path, text in files.items()}
    users = defaultdict(dict)
    for path, tree in trees.items():
        for name, count in reads(tree).items():
            users[name][path] = count
    found = defaultdict(list)
    for path, tree in trees.items():
        if not path.startswith((*SHIPPED, *TOOLS, "__init__.py")):
            continue
        rooms = SHIPPED if path.startswith(SHIPPED) and not path.startswith(tuple(FOR_TOOLS)) else (*SHIPPED, *TOOLS)
        for qualified, name, node in definitions(tree.body):
            if name.startswith("__") or name in CALLED_BY_NAME:
                continue
            elsewhere = any(reader.startswith((*rooms, "__init__.py")) for reader in users[name] if reader != path)
            if not elsewhere and users[name].get(path, 0) <= reads(node)[name]:
                found[path].append(qualified)
    return dict(found)


def test_every_name_is_used():
    assert unused(sources()) == {}


@pytest.mark.parametrize(
    ("files", "dead"),
    [
        ({"core/a.py": "def f():\n    f()"}, {"core/a.py": ["f"]}),
        ({"core/a.py": "def f(): pass", "tests/a.py": "f()"}, {"core/a.py": ["f"]}),
        ({"core/a.py": "def f(): pass", "tools/a.py": "f()"}, {"core/a.py": ["f"]}),
        ({"host/a.py": 'class A:\n    x = 1\n    def f(self):\n        """f x"""', "nodes/a.py": "A()"},)
        + ({"host/a.py": ["A.x", "A.f"]},),
        ({"tools/a.py": "A, B = 1, 2", "tests/a.py": "A"}, {"tools/a.py": ["A", "B"]}),
    ],
)
def test_an_unused_name_is_seen(files, dead):
    assert unused(files) == dead


@pytest.mark.parametrize(
    "files",
    [
        {"core/a.py": "def f(): pass", "host/a.py": "from ..core.a import f\nf()"},
        {"core/a.py": "class A:\n    x = 1\nA().x"},
        {"host/a.py": "class A:\n    def forward(self): pass\nA()"},
        {"core/storyworld/a.py": "def f(): pass", "experiments/storyworld/a.py": "f()"},
        {"nodes/a.py": 'def f(): pass\ngetattr(a, "f")'},
    ],
)
def test_a_used_name_passes(files):
    assert unused(files) == {}


def test_every_exception_is_needed():
    """The lists above hold no name and no file that has gone."""
    names = {name for text in sources().values() for _, name, _ in definitions(parse(text).body)}
    assert set(CALLED_BY_NAME) - names == set()
    assert [path for path in FOR_TOOLS if not any(name.startswith(path) for name in sources())] == []


def test_every_fixture_is_requested():
    wanted, fixtures = Counter(), {}
    for path, text in sources().items():
        if not path.startswith("tests/"):
            continue
        tree = parse(text)
        wanted.update(reads(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                wanted.update(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                if "fixture" in decorators and "autouse" not in decorators:
                    fixtures[node.name] = path
    assert len(fixtures) > 20
    assert {name: path for name, path in fixtures.items() if not wanted[name]} == {}


def test_every_data_file_of_the_tests_is_named():
    """Those in tests/manifests, by the tests or by the harness; golden data have a test of their own."""
    texts = "\n".join(text for path, text in sources().items() if path.startswith("tests/"))
    files = sorted((ROOT / "tests" / "manifests").glob("*.json"))
    assert files and [path.name for path in files if path.stem not in texts] == []
