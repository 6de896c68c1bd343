"""Wires of a graph, as data: which run behind a node, and reroutes around it."""

import copy

import pytest
from workflows.graph import renumber, reroutes_in_order
from workflows.reroutes import reroute
from workflows.wires import behind

HEIGHT, WIDTH = 200, 300
SLOTS = {"inputs": [(10, 14)], "outputs": [(WIDTH - 9, 14)]}


def graph(places: list[tuple[int, int]], links: list[tuple[int, int]]) -> tuple[dict, dict, dict]:
    """(workflow, slots, boxes) of nodes at these places, numbered from 1."""
    nodes = [
        {"id": id, "pos": list(place), "inputs": [{"link": None}], "outputs": [{"links": []}]}
        for id, place in enumerate(places, 1)
    ]
    workflow = {
        "nodes": nodes,
        "links": [[number, source, 0, target, 0, "IMAGE"] for number, (source, target) in enumerate(links, 1)],
        "groups": [],
        "extra": {},
    }
    boxes = {id: (x, y - 30, x + WIDTH, y + HEIGHT) for id, (x, y) in enumerate(places, 1)}
    return workflow, {node["id"]: SLOTS for node in nodes}, boxes


@pytest.mark.parametrize(
    ("places", "links", "hidden"),
    [
        ([(0, 0), (420, 0), (840, 0)], [(1, 2), (2, 3)], set()),
        ([(0, 0), (420, 0), (840, 0)], [(1, 2), (1, 3)], {2}),
        ([(0, 0), (0, 330), (420, 330)], [(1, 2), (1, 3)], {1}),  # within a column
        ([(0, 0), (420, 0), (420, 330), (840, 330)], [(1, 3), (1, 4)], {2}),
    ],
)
def test_a_wire_behind_a_node_gets_a_way_around_it(places, links, hidden):
    workflow, slots, boxes = graph(places, links)
    assert {link for link, _ in behind(workflow, slots, boxes)} == hidden
    reroute(workflow, slots, boxes)
    assert behind(workflow, slots, boxes) == []
    assert bool(workflow["extra"].get("reroutes")) == bool(hidden)
    again = copy.deepcopy(workflow)
    reroute(again, slots, boxes)
    assert again == workflow


def test_numbers_of_reroutes_follow_those_of_their_links():
    workflow, slots, boxes = graph([(0, 0), (420, 0), (840, 0)], [(1, 2), (1, 3)])
    reroute(workflow, slots, boxes)
    for link in workflow["links"]:
        link[0] += 10
    for part, key in (("linkExtensions", "id"), ("reroutes", "linkIds")):
        for entry in workflow["extra"][part]:
            entry[key] = [id + 10 for id in entry[key]] if key == "linkIds" else entry[key] + 10
    renumber(workflow)
    assert behind(workflow, slots, boxes) == []
    saved = reroutes_in_order(workflow["extra"])
    assert {link for entry in saved["reroutes"] for link in entry["linkIds"]} == {2}
    assert reroutes_in_order(saved) == saved
