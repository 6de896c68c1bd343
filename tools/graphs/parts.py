"""What an example graph consists of.

Positions and sizes are the canvas's pixels, chosen by hand so that a graph is readable in both of the frontend's
renderers; the newer one draws a node with many widgets taller than the size it was given. A graph flows from left to
right, and within a column downwards. Below a node is room for what it grows by in a run, see `room_below`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HUGGING_FACE = "https://huggingface.co/"
# where in the host's output folder, and what the files are called
PICTURES, PAGES, VIDEOS = "story/picture", "story/page", "story/video"


@dataclass(frozen=True)
class Node:
    """A node: title, (x, y, width, height), what differs from the default values, and files that it needs.

    A link is an input of the form ("id", output). models: the file's name is the address's last part. muted: it is
    drawn, and left out of a run until the user switches it on.
    """

    type: str
    title: str
    box: tuple[int, int, int, int]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[tuple[str, str], ...] = ()  # (address, folder of the host's models)
    muted: bool = False


@dataclass(frozen=True)
class Group:
    """A coloured frame around some nodes, and around what stands between them."""

    title: str
    colour: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A workflow. note: Markdown, shown in `note_box`. nodes: by their id in the API form.

    shows_run: its thumbnail shows what a small run leaves on the nodes, with stand-ins for its files.
    """

    name: str
    note: str
    note_box: tuple[int, int, int, int]
    nodes: dict[str, Node]
    groups: tuple[Group, ...]
    shows_run: bool = False


PREVIEW = 300  # pixels of room for a live preview


def room_below(type: str) -> int:
    """By how many pixels a node may grow in a run: live previews, a video to play, lines of text."""
    if type in ("KSampler", "SamplerCustom", "SamplerCustomAdvanced"):
        return PREVIEW
    if type.startswith("StoryReelAnimateStory") or type == "StoryReelExtendVideo":
        return PREVIEW + 100
    return 100 if type.startswith("StoryReel") else 0


def file_name(address: str) -> str:
    return address.rpartition("/")[2]


def load_checkpoint(address: str, box: tuple[int, int, int, int], title: str = "Load Checkpoint") -> Node:
    file = {"ckpt_name": file_name(address)}
    return Node("CheckpointLoaderSimple", title, box, file, ((address, "checkpoints"),))


SD15 = HUGGING_FACE + ("Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors")
SDXL = HUGGING_FACE + "stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors"


# "fixed": the same graph draws the same story again
FIXED_SEED = {"seed": 2047, "control_after_generate": "fixed"}
