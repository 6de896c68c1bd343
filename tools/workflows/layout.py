"""The rules by which a graph is readable, in either of the frontend's renderers, before a run and after it.

1. No node covers another, however large a run makes it: previews, players, messages.
2. A graph flows from left to right, and within a column downwards.
3. No wire runs behind a node.
"""

from __future__ import annotations

import itertools

from . import wires
from .graph import LINK_ID, SOURCE, TARGET, label

HEADER, GAP = 30, 30  # of a node, above its position; to the neighbor on the right
SLOT, WIDGET = 20, 30  # rows of the newer renderer, which draws a node as tall as these need
PREVIEW, TEXT = 230, 75  # what a run shows below the widgets: an image, and a few lines
SAMPLERS = ("KSampler", "SamplerCustom", "SamplerCustomAdvanced")
MAKERS = ("StoryReelAnimateStory", "StoryReelAnimateStoryByMotion", "StoryReelExtendVideo")
PLAYERS = ("SaveVideo", "SaveImage", "PreviewImage", "LoadImage", "LoadVideo")
GROUP_MARGIN, GROUP_TITLE = 15, 75  # of a group around its nodes; above them is room for both titles


def growth(kind: str, width: float) -> float:
    """Height that a run adds to a node: a preview; a video, which is as wide as the node and at most as tall as wide;
    on our nodes a message; and progress text with previews."""
    if kind == "SaveVideo":
        return max(PREVIEW, width)
    if kind in SAMPLERS or kind in PLAYERS:
        return PREVIEW
    if kind in MAKERS:
        return PREVIEW + 2 * TEXT
    return TEXT if kind.startswith("StoryReel") else 0


def content(node: dict, declared: dict) -> int:
    """The least height of a node: its slots, and its widgets but the advanced ones, which are folded away.

    declared: {type: its inputs, as INPUT_TYPES() gives them}.
    """
    inputs = {name: entry for part in declared.get(node["type"], {}).values() for name, entry in part.items()}
    options = {name: entry[1] for name, entry in inputs.items() if len(entry) > 1 and isinstance(entry[1], dict)}
    widgets = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    shown = [name for name in widgets if not options.get(name, {}).get("advanced")]
    seeds = sum(name in ("seed", "noise_seed") for name in shown)  # with a widget for the value after a run
    slots = max(len(node["inputs"]) - len(widgets), len(node["outputs"]))
    return HEADER + SLOT * slots + WIDGET * (len(shown) + seeds)


def grown(node: dict, declared: dict) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a node at its largest, after a run, and the gap on its right."""
    (x, y), (width, height) = node["pos"], node["size"]
    free = height - PREVIEW if node["type"] in PLAYERS else height
    least = max(content(node, declared) - HEADER, free) + growth(node["type"], width)
    return x, y - HEADER, x + width + GAP, y + max(height, least)


def boxes(workflow: dict, declared: dict) -> dict[int, wires.Box]:
    """{node: its box after a run}"""
    grown_boxes = {node["id"]: grown(node, declared) for node in workflow["nodes"]}
    return {node: (left, top, right - GAP, bottom) for node, (left, top, right, bottom) in grown_boxes.items()}


def covered(workflow: dict, declared: dict) -> list[tuple[dict, dict]]:
    """Pairs of nodes of which one covers the other."""
    boxes = [(node, grown(node, declared)) for node in workflow["nodes"]]
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(boxes, 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def backward(workflow: dict) -> list[tuple[dict, dict]]:
    """Linked nodes whose source stands neither wholly to the left of its target nor above it."""
    nodes = {node["id"]: node for node in workflow["nodes"]}

    def follows(source: dict, target: dict) -> bool:
        (x, y), (width, height), (left, top) = source["pos"], source["size"], target["pos"]
        in_column = x < left + target["size"][0]
        return x + width <= left or (in_column and y + height <= top)

    links = [(nodes[link[SOURCE]], nodes[link[TARGET]]) for link in workflow["links"]]
    return [(source, target) for source, target in links if not follows(source, target)]


def faults(workflow: dict, declared: dict) -> list[str]:
    """The nodes that break a rule, a sentence each."""
    problems = [f"{label(one)} and {label(other)} overlap after a run." for one, other in covered(workflow, declared)]
    return problems + [f"{label(one)} is not left of {label(other)}, or above it." for one, other in backward(workflow)]


def hidden_wires(workflow: dict, declared: dict, slots: dict[int, dict]) -> list[str]:
    """The wires that run behind a node, a sentence each. slots: see `wires.ends`."""
    problems = []
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[LINK_ID]: link for link in workflow["links"]}
    for link, node in wires.behind(workflow, slots, boxes(workflow, declared)):
        source, target = (label(nodes[links[link][end]]) for end in (SOURCE, TARGET))
        problems.append(f"The wire from {source} to {target} runs behind {label(nodes[node])}.")
    return problems


def repair(workflow: dict, declared: dict):
    """Move nodes down until none covers another, and let groups hold their nodes again. Faultless graphs stay."""
    members = {group["id"]: _members(group, workflow["nodes"]) for group in workflow["groups"]}
    moved = set()
    for _ in range(len(workflow["nodes"]) ** 2):
        pairs = covered(workflow, declared)
        if not pairs:
            break
        upper, lower = sorted(pairs[0], key=lambda node: (node["pos"][1], node["id"]))
        lower["pos"][1] = grown(upper, declared)[3] + HEADER
        moved.add(lower["id"])
    for group in workflow["groups"]:
        if moved & {node["id"] for node in members[group["id"]]}:
            group["bounding"] = _bounding(group, members[group["id"]])


def _members(group: dict, nodes: list[dict]) -> list[dict]:
    """The nodes whose centers lie in the group, as the frontend finds them."""
    x, y, width, height = group["bounding"]

    def inside(node: dict) -> bool:
        center = [place + size / 2 for place, size in zip(node["pos"], node["size"], strict=True)]
        return x <= center[0] < x + width and y <= center[1] < y + height

    return [node for node in nodes if inside(node)]


def _bounding(group: dict, members: list[dict]) -> list[int]:
    """The group's box, larger where a member needs it."""
    x, y, width, height = group["bounding"]
    left = min(x, *(node["pos"][0] - GROUP_MARGIN for node in members))
    top = min(y, *(node["pos"][1] - GROUP_TITLE for node in members))
    right = max(x + width, *(node["pos"][0] + node["size"][0] + GROUP_MARGIN for node in members))
    bottom = max(y + height, *(node["pos"][1] + node["size"][1] + GROUP_MARGIN for node in members))
    return [left, top, right - left, bottom - top]
