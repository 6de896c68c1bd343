"""Where the host is: COMFYUI_PATH, else the source archive unpacked in .cache."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = ROOT / ".cache" / "host-2.6.0" / "ComfyUI"


def find_host() -> Path:
    path = Path(os.environ.get("COMFYUI_PATH") or HOST)
    if not (path / "main.py").is_file():
        raise FileNotFoundError(f"no ComfyUI in {path}: run tools/test.py --setup, or set COMFYUI_PATH")
    return path
