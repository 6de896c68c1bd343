"""Which frames of a story are drawn first, together: the anchor frames of its characters, in independent groups.

A long story is drawn in two parts, as StoryDiffusion's recommended program draws it (arXiv 2405.01434, its "write" and
"read" phases): the anchor frames of the characters in one batch, which a bank records, then all others, which read it.
Here characters who share no anchor frame have batches of their own, so a change of one leaves the others as they are.
"""

from collections.abc import Set
from dataclasses import dataclass

from .sharing import Cast, find_anchors


@dataclass(frozen=True)
class AnchorGroup:
    """Characters whose anchor frames are drawn in one batch. frames: their numbers, ascending."""

    characters: frozenset[str]
    frames: tuple[int, ...]


def anchor_groups(cast: Cast, known: Set[str], count: int) -> list[AnchorGroup]:
    """The groups of all characters that are not `known` from a bank, ordered by their first frames.

    count: anchor frames of a character, at most. Characters who are shown by one anchor frame are in one group.
    """
    groups: list[tuple[set[str], set[int]]] = []
    for name, frames in find_anchors(cast, count, frozenset(known)).items():
        names = {name}.union(*(cast[frame] for frame in frames)) - known
        own, others = (names, set(frames)), []
        for group in groups:
            if group[0] & own[0]:
                own = own[0] | group[0], own[1] | group[1]
            else:
                others.append(group)
        groups = [*others, own]
    found = [AnchorGroup(frozenset(names), tuple(sorted(frames))) for names, frames in groups]
    return sorted(found, key=lambda group: group.frames)
