"""The shipped workflows have room, flow from left to right, and are as tools/workflows/normalize.py writes them."""

import copy

import pytest
from harness import workflows
from harness.tools import workflow_tools

EVERY_WORKFLOW = pytest.mark.parametrize("name", workflows.NAMES)


@pytest.fixture(scope="module")
def modules():
    with workflow_tools("graph", "layout", "normalize") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def layout(modules):
    return modules.layout


@pytest.fixture(scope="module")
def graph(modules):
    return modules.graph


@pytest.fixture(scope="module")
def declared(host) -> dict:
    """{type: its inputs}"""
    types = {node["type"] for name in workflows.NAMES for node in workflows.workflow(name)["nodes"]}
    return {kind: host.nodes[kind].INPUT_TYPES() for kind in types if kind in host.nodes}


@EVERY_WORKFLOW
def test_the_layout_follows_the_rules(layout, declared, name):
    saved = workflows.workflow(name)
    assert saved["links"] and layout.faults(saved, declared) == []
    repaired = copy.deepcopy(saved)
    layout.repair(repaired, declared)
    assert repaired == saved


@EVERY_WORKFLOW
def test_numbers_and_properties_are_normalized(modules, name):
    """`--check` without a frontend: numbering, properties and links to model files change nothing."""
    saved = workflows.workflow(name)
    again = copy.deepcopy(saved)
    modules.graph.renumber(again)
    modules.graph.clean(again, name)
    modules.graph.describe(again, modules.normalize.shipped_files(), modules.normalize.versions())
    assert again == saved


def node(id: int, pos: tuple[int, int], kind: str = "VAEDecode", size: tuple[int, int] = (300, 100)) -> dict:
    slots = {"inputs": [{"name": "samples", "link": None}], "outputs": [{"name": "IMAGE", "links": None}]}
    return {"id": id, "type": kind, "title": kind, "pos": list(pos), "size": list(size), "mode": 0, **slots}


def linked(*nodes: dict) -> dict:
    """A workflow in which each node is linked to the next."""
    links = [[10 * a["id"], a["id"], 0, b["id"], 0, "IMAGE"] for a, b in zip(nodes, nodes[1:], strict=False)]
    for link, a, b in zip(links, nodes, nodes[1:], strict=False):
        a["outputs"][0]["links"], b["inputs"][0]["link"] = [link[0]], link[0]
    return {"nodes": list(nodes), "links": links, "groups": [], "extra": {}}


def test_a_node_that_a_preview_would_cover_moves_down_with_its_group(layout):
    """A KSampler shows previews below its widgets; the node below it is too near."""
    workflow = linked(node(1, (0, 0), "KSampler"), node(2, (0, 250)), node(3, (400, 0)))
    workflow["groups"] = [{"id": 1, "title": "Draw", "bounding": [-15, -75, 330, 440]}]
    assert layout.faults(workflow, {}) == ["KSampler (1) and VAEDecode (2) overlap after a run."]
    layout.repair(workflow, {})
    assert layout.faults(workflow, {}) == []
    assert [each["pos"] for each in workflow["nodes"]] == [[0, 0], [0, 360], [400, 0]]
    assert workflow["groups"][0]["bounding"] == [-15, -75, 330, 550]


@pytest.mark.parametrize("target", [(-400, 0), (0, -300), (200, -300)], ids=["left", "above", "above, further right"])
def test_a_wire_that_runs_back_is_reported(layout, target):
    workflow = linked(node(1, (0, 0)), node(2, target))
    assert layout.faults(workflow, {}) == ["VAEDecode (1) is not left of VAEDecode (2), or above it."]


def test_links_get_stable_numbers(graph):
    """By their targets, whatever numbers an edit in the frontend has left. Nodes keep theirs."""
    workflow = linked(node(7, (0, 0)), node(3, (400, 0)), node(5, (800, 0)))
    graph.renumber(workflow)
    assert workflow["links"] == [[1, 7, 0, 3, 0, "IMAGE"], [2, 3, 0, 5, 0, "IMAGE"]]
    assert [each["id"] for each in workflow["nodes"]] == [3, 5, 7]
    assert [each["inputs"][0]["link"] for each in workflow["nodes"]] == [1, 2, None]
    assert [each["outputs"][0]["links"] for each in workflow["nodes"]] == [[2], None, [1]]
    assert (workflow["last_node_id"], workflow["last_link_id"]) == (7, 2)


def test_the_view_and_changing_seeds_are_left_out(graph):
    workflow = linked({**node(1, (0, 0)), "widgets_values": [5, "randomize", 20]})
    workflow |= {"extra": {"ds": {"scale": 0.5}}, "revision": 3}
    workflow["nodes"][0]["pos"] = [0.4, 9.6]
    graph.clean(workflow, "some_name")
    assert workflow["extra"] == {} and workflow["revision"] == 0
    assert workflow["nodes"][0]["widgets_values"] == [5, "fixed", 20] and workflow["nodes"][0]["pos"] == [0, 10]


def test_a_model_file_of_unknown_origin_is_refused(graph):
    workflow = linked({**node(1, (0, 0)), "widgets_values": ["mine.safetensors"]})
    with pytest.raises(graph.Broken, match=r"VAEDecode \(1\) names mine.safetensors: add it to"):
        graph.describe(workflow, shipped=set(), versions={"comfy-core": "1"})
    graph.describe(workflow, shipped={"mine.safetensors"}, versions={"comfy-core": "1"})
    assert "models" not in workflow["nodes"][0]["properties"]
