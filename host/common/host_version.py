"""The oldest ComfyUI that the pack runs on."""

import re

import comfyui_version

OLDEST = 0, 20, 1  # as pyproject.toml says; older hosts lack what the pack imports, and say so in many ways


def check_version() -> None:
    """Raise ImportError for a ComfyUI that is too old."""
    found = comfyui_version.__version__
    if tuple(map(int, re.findall(r"\d+", found)[:3])) < OLDEST:
        raise ImportError(
            f"StoryReel needs ComfyUI {'.'.join(map(str, OLDEST))} or newer, and this is {found}. Update ComfyUI."
        )
