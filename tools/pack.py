"""The pack and the host, imported without a running ComfyUI."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_pack() -> None:
    """Import the pack as `storyreel`, as the host imports it by its folder."""
    if "storyreel" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "storyreel", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["storyreel"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def load_host(path: Path) -> None:
    """Make `comfy` importable, set up as the demo's host is: torch's own attention, a CPU where there is no GPU."""
    import torch

    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    args.cpu = not torch.cuda.is_available()
