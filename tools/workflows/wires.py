"""Wires as the frontend draws them, and which of them run behind a node.

A wire is a chain of cubic splines: from an output to an input, by way of reroutes if there are any. The frontend saves
reroutes in `extra`: `reroutes` [{"id", "parentId", "pos", "linkIds"}] from the output on, and `linkExtensions`
[{"id": link, "parentId": the reroute nearest to its input}].
"""

from __future__ import annotations

import math

from .graph import INPUT, LINK_ID, OUTPUT, SOURCE, TARGET

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Spline = tuple[Point, Point, Point, Point]  # start, two control points, end

REACH = 80  # of a control point beside a reroute, at most
BEND = 0.25  # of the way between two points is the reach of their control points
STEP = 10  # pixels between the points at which a spline is looked at
SLOT = 16  # a slot lies this far inside its node, at most


def reroutes_of(workflow: dict) -> dict[int, list[dict]]:
    """{link: its reroutes, from the output on}, of the links that have any."""
    known = {entry["id"]: entry for entry in workflow["extra"].get("reroutes") or []}
    chains = {}
    for extension in workflow["extra"].get("linkExtensions") or []:
        chain, at = [], extension.get("parentId")
        while at in known and known[at] not in chain:
            chain.append(known[at])
            at = known[at].get("parentId")
        chains[extension["id"]] = chain[::-1]
    return chains


def ends(workflow: dict, slots: dict[int, dict]) -> dict[int, tuple[Point, Point]]:
    """{link: (its output, its input)}. slots: {node: {"inputs" and "outputs": [(x, y) from the node's position]}}."""
    places = {node["id"]: node["pos"] for node in workflow["nodes"]}

    def slot(node: int, kind: str, number: int) -> Point:
        (x, y), (right, down) = places[node], slots[node][kind][number]
        return x + right, y + down

    return {
        link[LINK_ID]: (slot(link[SOURCE], "outputs", link[OUTPUT]), slot(link[TARGET], "inputs", link[INPUT]))
        for link in workflow["links"]
    }


def drawn(workflow: dict, slots: dict[int, dict], of: set[int] | None = None) -> dict[int, list[Spline]]:
    """{link: its splines}, as the frontend draws them (LGraphCanvas._renderAllLinkSegments, Reroute.calculateAngle).
    of: all links of some outputs; of all if None."""
    chains, points = reroutes_of(workflow), ends(workflow, slots)
    points = {link: place for link, place in points.items() if of is None or link in of}
    after: dict[int, list[Point]] = {}  # {reroute: where its links go next}
    for link, (_, end) in points.items():
        chain = chains.get(link, [])
        for entry, following in zip(chain, [*(each["pos"] for each in chain[1:]), end] if chain else [], strict=True):
            after.setdefault(entry["id"], []).append(tuple(following))
    return {link: _splines(start, chains.get(link, []), end, after) for link, (start, end) in points.items()}


def _splines(start: Point, chain: list[dict], end: Point, after: dict[int, list[Point]]) -> list[Spline]:
    splines = []
    control = (start[0] + BEND * math.dist(start, tuple(chain[0]["pos"]) if chain else end), start[1])
    for number, entry in enumerate(chain):
        place, origin = tuple(entry["pos"]), start if number == 0 else tuple(chain[number - 1]["pos"])
        heading = _heading(origin, place, after[entry["id"]])
        splines.append((origin, control, _along(place, heading, -_reach(origin, place)), place))
        following = tuple(chain[number + 1]["pos"]) if number + 1 < len(chain) else end
        control = _along(place, heading, _reach(place, following))
    origin = tuple(chain[-1]["pos"]) if chain else start
    return [*splines, (origin, control, (end[0] - BEND * math.dist(origin, end), end[1]), end)]


def _heading(origin: Point, place: Point, following: list[Point]) -> float:
    """The direction of a wire at a reroute: between that of its coming and the mean of its going on."""
    coming = math.atan2(place[1] - origin[1], place[0] - origin[0])
    going = sum(math.atan2(point[1] - place[1], point[0] - place[0]) for point in following) / len(following)
    turn = (coming - going) / 2
    return coming - (turn + math.pi if abs(turn) > math.pi / 2 else turn)


def _reach(one: Point, other: Point) -> float:
    return min(REACH, BEND * math.dist(one, other))


def _along(place: Point, heading: float, distance: float) -> Point:
    return place[0] + distance * math.cos(heading), place[1] + distance * math.sin(heading)


def sampled(spline: Spline) -> list[Point]:
    """Points on a spline, close to each other."""
    length = sum(math.dist(one, other) for one, other in zip(spline, spline[1:], strict=False))
    count = max(2, math.ceil(length / STEP))
    found = []
    for number in range(count + 1):
        t = number / count
        weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
        found.append(tuple(sum(w * point[axis] for w, point in zip(weights, spline, strict=True)) for axis in (0, 1)))
    return found


def behind(
    workflow: dict, slots: dict[int, dict], boxes: dict[int, Box], margin: float = 0, of: set[int] | None = None
) -> list[tuple[int, int]]:
    """[(link, node)] of wires that run behind a node, or pass it closer than `margin`. boxes: {node: where it is}. of:
    all links of the outputs to look at; of all if None."""
    drawings = drawn(workflow, slots, of)
    found = []
    for link in workflow["links"]:
        if of is not None and link[LINK_ID] not in of:
            continue
        points = [point for spline in drawings[link[LINK_ID]] for point in sampled(spline)]
        xs, ys = zip(*points, strict=True)
        west, north, east, south = min(xs), min(ys), max(xs), max(ys)
        for node, (left, top, right, bottom) in boxes.items():
            left, top, right, bottom = left - margin, top - margin, right + margin, bottom + margin
            if node == link[SOURCE]:
                right -= margin + SLOT
            if node == link[TARGET]:
                left += margin + SLOT
            if left < east and west < right and top < south and north < bottom:
                if any(left < x < right and top < y < bottom for x, y in points):
                    found.append((link[LINK_ID], node))
    return found
