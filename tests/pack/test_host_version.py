"""A ComfyUI that is too old is named in one sentence."""

import asyncio
import re
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_the_bound_is_that_of_the_registry(host):
    from storyreel.host.common.host_version import OLDEST

    (stated,) = re.findall(r'^requires-comfyui = ">=([\d.]+)"$', PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated == ".".join(map(str, OLDEST))


@pytest.mark.parametrize("version", ["0.3.64", "0.19.3", "0.20.0", "0.20.0rc1"])
def test_an_older_host_is_refused_before_any_node_is_imported(host, monkeypatch, version):
    import comfyui_version
    import storyreel

    async def load():
        """As the host does."""
        extension = await storyreel.comfy_entrypoint()
        await extension.on_load()

    monkeypatch.setattr(comfyui_version, "__version__", version)
    with pytest.raises(ImportError, match=re.escape(f"needs ComfyUI 0.20.1 or newer, and this is {version}. Update")):
        asyncio.run(load())


@pytest.mark.parametrize("version", ["0.20.1", "0.20.1rc1", "0.30.0", "0.33", "1.0.0"])
def test_newer_hosts_are_taken(host, monkeypatch, version):
    import comfyui_version
    from storyreel.host.common.host_version import check_version

    monkeypatch.setattr(comfyui_version, "__version__", version)
    check_version()
