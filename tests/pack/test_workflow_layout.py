"""The shipped workflows have room: what nodes grow by in a run, in either renderer, covers no neighbor."""

import itertools

import pytest
from harness import workflows

HEADER, GAP = 30, 30  # of a node, above its position; to the neighbor on the right
SLOT, WIDGET = 20, 30  # rows of the newer renderer, which draws a node as tall as these need
PREVIEW, TEXT = 230, 75  # what a run shows below the widgets: an image, and a few lines
SAMPLERS = ("KSampler", "SamplerCustom", "SamplerCustomAdvanced")
MAKERS = ("StoryReelAnimateStory", "StoryReelAnimateStoryByMotion", "StoryReelExtendVideo")
PLAYERS = ("SaveVideo", "SaveImage", "PreviewImage", "LoadImage", "LoadVideo")
EVERY_WORKFLOW = pytest.mark.parametrize("name", workflows.NAMES)


def growth(kind: str) -> int:
    """What a run adds to a node: a preview; on nodes of ours a message; and progress in words beside previews."""
    if kind in SAMPLERS or kind in PLAYERS:
        return PREVIEW
    if kind in MAKERS:
        return PREVIEW + 2 * TEXT
    return TEXT if kind.startswith("StoryReel") else 0


def content(node: dict, nodes: dict) -> int:
    """The least height of a node: its slots, and its widgets but the advanced ones, which are folded away."""
    declared = nodes[node["type"]].INPUT_TYPES() if node["type"] in nodes else {}
    about = {name: told[1] for part in declared.values() for name, told in part.items() if len(told) > 1}
    widgets = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    shown = [name for name in widgets if not (isinstance(about.get(name), dict) and about[name].get("advanced"))]
    seeds = sum(name in ("seed", "noise_seed") for name in shown)  # with a widget of what comes after a run
    slots = max(len(node["inputs"]) - len(widgets), len(node["outputs"]))
    return HEADER + SLOT * slots + WIDGET * (len(shown) + seeds)


def titled(node: dict) -> str:
    return f"{node.get('title', node['type'])} ({node['id']})"


def boxes(name: str, nodes: dict) -> dict[str, tuple[float, float, float, float]]:
    """{title: left, top, right, bottom} of a node that a run has made as large as it gets."""
    found = {}
    for node in workflows.workflow(name)["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        free = height - PREVIEW if node["type"] in PLAYERS else height
        least = max(content(node, nodes) - HEADER, free) + growth(node["type"])
        found[titled(node)] = x, y - HEADER, x + width + GAP, y + max(height, least)
    return found


@EVERY_WORKFLOW
def test_a_node_that_grows_in_a_run_covers_no_other(host, name):
    found = boxes(name, host.nodes)
    assert len(found) == len(workflows.workflow(name)["nodes"])
    covered = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(found.items(), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert covered == []


@EVERY_WORKFLOW
def test_a_graph_flows_from_left_to_right(name):
    """And within a column downwards: what a node needs stands wholly to its left, or above it."""
    graph = workflows.workflow(name)
    nodes = {node["id"]: node for node in graph["nodes"]}

    def follows(source: dict, target: dict) -> bool:
        (x, y), (width, height), (left, top) = source["pos"], source["size"], target["pos"]
        in_column = x < left + target["size"][0]
        return x + width <= left or (in_column and y + height <= top)

    against = [
        (titled(nodes[link[1]]), titled(nodes[link[3]]))
        for link in graph["links"]
        if not follows(nodes[link[1]], nodes[link[3]])
    ]
    assert graph["links"] and against == []
