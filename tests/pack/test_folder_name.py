"""The clone may have any name, also that of a module of tools."""

import shutil
import subprocess
import sys
from pathlib import Path

import environment
import pytest

pytestmark = pytest.mark.programs

ROOT = Path(__file__).resolve().parents[2]
LEAVE_OUT = shutil.ignore_patterns("__pycache__", "*.safetensors", "test_*.py", "sampled", "data")
TEST = """
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_names_of_tools_are_tools():
    import {module}

    assert Path({module}.__file__).parent == ROOT / "tools"
    assert Path(sys.modules["storyreel"].__file__).parent == ROOT
"""


@pytest.mark.parametrize("module", ["pack", "environment", "demo"])
def test_a_clone_may_be_named_like_a_module_of_tools(tmp_path, module):
    clone = tmp_path / module
    for folder in ("core", "host", "nodes", "tests", "tools"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=LEAVE_OUT)
    for file in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / file, clone)
    (clone / "tests" / "test_names.py").write_text(TEST.format(module=module))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_names.py"]
    env = {name: value for name, value in environment.clean_environ().items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
