"""Reroutes around nodes, for the wires that run behind one.

All wires of an output share one tree. Each is found on a grid of lines beside the nodes: the shortest way with few
bends that keeps off nodes, titles of groups and other trees. A reroute is set where the way bends or branches, unless
the wires are as free without it.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .graph import LINK_ID, OUTPUT, SOURCE, TARGET
from .wires import Box, Point, behind, ends, reroutes_of

CLEAR, FIRST = 24, 36  # pixels between a way and a node: at least, and of the first line beside it
LANE = 24  # between two ways
LANES = 5  # on each side of a group
TITLE = 40  # height of a group's title
BEND, BRANCH, CLOSE, ACROSS = 120, 60, 6, 12  # pixels that a bend or a branch costs, or a pixel beside another tree
MARGIN, ROOM = 6, 20  # between a wire as it is drawn and a node: at least; kept where there is as much


def reroute(workflow: dict, slots: dict[int, dict], boxes: dict[int, Box], margin: float = 0):
    """Set reroutes for every output of which a wire runs behind a node, or passes it closer than `margin`; those of the
    others stay."""
    hidden = {link for link, _ in behind(workflow, slots, boxes, margin)}
    links = {link[LINK_ID]: link for link in workflow["links"]}
    outputs = {(links[link][SOURCE], links[link][OUTPUT]) for link in hidden}
    places = ends(workflow, slots)
    trees = []
    for output in outputs:
        of_output = [link for link in workflow["links"] if (link[SOURCE], link[OUTPUT]) == output]
        _remove(workflow, {link[LINK_ID] for link in of_output})
    still = {link for link, _ in behind(workflow, slots, boxes, max(MARGIN, margin))}
    kept = [
        edge
        for chain in reroutes_of(workflow).values()
        for edge in itertools.pairwise(tuple(entry["pos"]) for entry in chain)
    ]
    for output in sorted(outputs, key=lambda each: _span(each, workflow["links"], places)):
        of_output = [link for link in workflow["links"] if (link[SOURCE], link[OUTPUT]) == output]
        of_output = [link for link in of_output if link[LINK_ID] in still]
        waiting = [of_output] if of_output else []
        while waiting:
            together = waiting.pop()
            taken = kept + [edge for each in trees for edge in each.edges()]
            tree = _tree(together, _Grid(boxes, workflow["groups"], taken), boxes, places)
            trees.append(tree)
            _simplify(workflow, tree, slots, boxes)
            if len(together) > 1:  # a reroute that many wires share may send one of them astray
                astray = {link for link, _ in _faults(workflow, tree, slots, boxes, MARGIN)}
                tree.remove(astray)
                waiting += [[link] for link in together if link[LINK_ID] in astray]
                _simplify(workflow, tree, slots, boxes)


def _tree(links: list[list], grid: _Grid, boxes: dict[int, Box], places: dict[int, tuple[Point, Point]]) -> _Tree:
    tree = _Tree(places[links[0][LINK_ID]][0])
    for link in sorted(links, key=lambda link: places[link[LINK_ID]][1]):
        tree.add(link[LINK_ID], grid.way(tree, boxes[link[SOURCE]], boxes[link[TARGET]], places[link[LINK_ID]][1]))
    return tree


def _span(output: tuple, links: list[list], places: dict[int, tuple[Point, Point]]) -> tuple:
    """Sorts outputs: those whose wires are short come first, and get the nearest lanes."""
    far = max(places[link[LINK_ID]][1][0] for link in links if (link[SOURCE], link[OUTPUT]) == output)
    near = min(places[link[LINK_ID]][0][0] for link in links if (link[SOURCE], link[OUTPUT]) == output)
    return far - near, output


@dataclass
class _Tree:
    """The ways of an output. parents: {point: the one before it}; leaves: {link: its last point}."""

    start: Point
    parents: dict[Point, Point] = field(default_factory=dict)
    leaves: dict[int, Point] = field(default_factory=dict)

    def add(self, link: int, way: list[Point]):
        for before, point in itertools.pairwise(way):
            if point not in self.parents and point != way[0]:
                self.parents[point] = before
        self.leaves[link] = way[-1]

    def remove(self, links: set[int]):
        self.leaves = {link: point for link, point in self.leaves.items() if link not in links}
        used = {point for link in self.leaves for point in self.chain(link)}
        self.parents = {point: parent for point, parent in self.parents.items() if point in used}

    def chain(self, link: int) -> list[Point]:
        """The way of a link, from the output on."""
        point, found = self.leaves[link], []
        while point in self.parents:
            found.append(point)
            point = self.parents[point]
        return [point, *found[::-1]]

    def edges(self) -> list[tuple[Point, Point]]:
        return [(parent, point) for point, parent in self.parents.items()]

    def bends(self) -> list[Point]:
        """Points at which a way turns or branches."""
        found = {}
        for link in self.leaves:
            chain = self.chain(link)
            for before, point, after in zip(chain, chain[1:], chain[2:], strict=False):
                if (before[0] == point[0]) != (point[0] == after[0]):
                    found[point] = None
            if chain[-2][0] == chain[-1][0]:  # it turns into the input
                found[chain[-1]] = None
        after: dict[Point, set[Point]] = {}
        for link in self.leaves:
            for point, following in itertools.pairwise(self.chain(link)):
                after.setdefault(point, set()).add(following)
        found |= {point: None for point, following in after.items() if len(following) > 1 and point in self.parents}
        return list(found)


class _Grid:
    """Where a way may go."""

    def __init__(self, boxes: dict[int, Box], groups: list[dict], taken: list[tuple[Point, Point]]):
        self.blocks = [(a - CLEAR, b - CLEAR, c + CLEAR, d + CLEAR) for a, b, c, d in boxes.values()]
        areas = [group["bounding"] for group in groups]
        self.titles = [(x, y - CLEAR / 2, x + width, y + TITLE) for x, y, width, _ in areas]
        lefts, tops, rights, bottoms = zip(*boxes.values(), strict=True)
        self.xs = _lines(lefts, rights, 14, 4)
        self.ys = _lines(tops, bottoms, LANE, 2)
        self.ys |= _lines([y for _, y, _, _ in areas], [y + height for _, y, _, height in areas], LANE, LANES)
        self.taken = taken
        self.prices: dict[tuple, float | None] = {}
        self.at: dict[tuple, tuple] = {}

    def way(self, tree: _Tree, source: Box, target: Box, end: Point) -> list[Point]:
        """From a point of the tree to one beside an input."""
        first = (source[2] + FIRST, tree.start[1])
        last = (target[0] - FIRST, end[1])
        xs = sorted({*self.xs, first[0], last[0], *(point[0] for point in tree.parents)})
        ys = sorted({*self.ys, first[1], last[1], *(point[1] for point in tree.parents)})
        costs: dict[tuple, float] = {}
        came: dict[tuple, tuple | None] = {}
        queue: list[tuple] = []

        def reach(cost: float, state: tuple, before: tuple | None):
            if cost < costs.get(state, float("inf")):
                costs[state], came[state] = cost, before
                (x, y), _ = state
                heapq.heappush(queue, (cost + abs(x - last[0]) + abs(y - last[1]), cost, state))

        if not tree.parents:
            reach(0, (first, "x"), None)
        for point in tree.parents:
            reach(BRANCH, (point, "x"), None)
            reach(BRANCH, (point, "y"), None)
        while queue:
            _, cost, state = heapq.heappop(queue)
            if cost > costs[state]:
                continue
            point, axis = state
            if point == last:
                break
            for following, turned in _neighbors(point, xs, ys):
                price = self._price(point, following, turned)
                if price is not None:
                    reach(cost + price + (BEND if turned != axis else 0), (following, turned), state)
        else:
            raise RuntimeError(f"there is no way to {end}")
        way = []
        while state is not None:
            way.append(state[0])
            state = came[state]
        way = [point for point, _ in itertools.groupby(way[::-1])]
        return way if tree.parents else [tree.start, *way]

    def _price(self, one: Point, other: Point, axis: str) -> float | None:
        """What an edge costs; None where there is a node."""
        (a, b), (c, d) = min(one, other), max(one, other)
        if (key := (a, b, c, d)) in self.prices:
            return self.prices[key]
        line, start, stop = (b, a, c) if axis == "x" else (a, b, d)
        nodes, titles, ways = self._on(axis, line)
        length = price = stop - start
        if any(start < far and near < stop for near, far in nodes):
            price = None
        else:
            if any(start < far and near < stop for near, far in titles):
                price += ACROSS * length
            price += CLOSE * length * sum(start < far + LANE and near - LANE < stop for near, far in ways)
        self.prices[key] = price
        return price

    def _on(self, axis: str, line: float) -> tuple:
        """What lies on a line, from where to where: nodes, titles of groups, ways of other trees."""
        if (axis, line) not in self.at:
            along, across = (0, 1) if axis == "x" else (1, 0)

            def cut(boxes: list[Box]) -> list[tuple[float, float]]:
                return [(box[along], box[along + 2]) for box in boxes if box[across] < line < box[across + 2]]

            near = [
                sorted((one[along], other[along]))
                for one, other in self.taken
                if one[across] == other[across] and abs(one[across] - line) < (LANE if axis == "x" else 12)
            ]
            self.at[axis, line] = cut(self.blocks), cut(self.titles) if axis == "x" else [], near
        return self.at[axis, line]


def _neighbors(point: Point, xs: list[float], ys: list[float]) -> Iterator[tuple[Point, str]]:
    (x, y), column, row = point, bisect.bisect_left(xs, point[0]), bisect.bisect_left(ys, point[1])
    for place in (column - 1, column + 1):
        if 0 <= place < len(xs):
            yield (xs[place], y), "x"
    for place in (row - 1, row + 1):
        if 0 <= place < len(ys):
            yield (x, ys[place]), "y"


def _lines(before: Iterable[float], after: Iterable[float], step: float, count: int) -> set[float]:
    places = {edge - FIRST - number * step for edge in before for number in range(count)}
    return places | {edge + FIRST + number * step for edge in after for number in range(count)}


def _simplify(workflow: dict, tree: _Tree, slots: dict[int, dict], boxes: dict[int, Box]):
    """Set the tree's reroutes: as few as leave its wires as free as all would."""
    kept = tree.bends()
    _set(workflow, tree, kept)
    before = [_faults(workflow, tree, slots, boxes, margin) for margin in (MARGIN, ROOM)]
    for point in sorted(kept, key=lambda point: (point not in tree.leaves.values(), point)):
        fewer = [each for each in kept if each != point]
        _set(workflow, tree, fewer)
        now = [_faults(workflow, tree, slots, boxes, margin) for margin in (MARGIN, ROOM)]
        if all(less <= more for less, more in zip(now, before, strict=True)):
            kept, before = fewer, now
    _set(workflow, tree, kept)


def _faults(
    workflow: dict, tree: _Tree, slots: dict[int, dict], boxes: dict[int, Box], margin: float
) -> set[tuple[int, int]]:
    return set(behind(workflow, slots, boxes, margin, set(tree.leaves)))


def _remove(workflow: dict, links: set[int]):
    extra = workflow["extra"]
    left = [each for each in extra.get("reroutes") or [] if not links & set(each["linkIds"])]
    extra["reroutes"] = left
    extra["linkExtensions"] = [each for each in extra.get("linkExtensions") or [] if each["id"] not in links]


def _set(workflow: dict, tree: _Tree, points: list[Point]):
    _remove(workflow, set(tree.leaves))
    extra = workflow["extra"]
    number = itertools.count(1 + max((each["id"] for each in extra["reroutes"]), default=0))
    ids: dict[Point, int] = {}
    for link in tree.leaves:
        parent = None
        for point in tree.chain(link):
            if point not in points:
                continue
            if point not in ids:
                ids[point] = next(number)
                entry = {"id": ids[point], "pos": [round(point[0]), round(point[1])], "linkIds": []}
                extra["reroutes"].append(entry if parent is None else {**entry, "parentId": parent})
            (entry,) = (each for each in extra["reroutes"] if each["id"] == ids[point])
            entry["linkIds"].append(link)
            parent = ids[point]
        if parent is not None:
            extra["linkExtensions"].append({"id": link, "parentId": parent})
