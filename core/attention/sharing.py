"""Who borrows from whom.

Consistent Self-Attention gives an image, beside its own tokens, sampled tokens of other images.
This module decides which images those are; it works on frame numbers and names, before any tensor.

Published rules (StoryDiffusion, arXiv 2405.01434, and its code):
* mutual: every frame lends to every other frame that shows one of its characters;
* anchors: the first k frames in which a character stands alone lend to each other, and every other
  frame of that character reads them one way;
* windows (Algorithm 1): frames lend to each other only inside a window of W consecutive frames that
  slides along the story, and the estimates of all windows that hold a frame are averaged.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Cast = Sequence[frozenset[str]]

EVERYONE = frozenset({"everyone"})


@dataclass(frozen=True)
class Group:
    """Images that read one pool of sampled tokens.

    pool: rows whose samples form the pool, in frame order; empty for plain self-attention.
    readers: rows that read it, each with the weight of this estimate; over all groups a row's weights sum to 1.
    window: frame at which the window begins that the samples belong to.
    own: which of its own tokens a reader adds: "all", or "rest", those that its own share of the
        pool does not hold already (so that every own token counts exactly once).
    """

    pool: tuple[int, ...]
    readers: dict[int, float]
    window: int
    own: str


@dataclass(frozen=True)
class Rules:
    """How a story is shared out.

    anchors: k as above; 0 = all frames are mutual.
    tile_size: W as above; 0 = one window over all frames. Limits mutual exchange, not the reading of anchors.
    tile_stride: distance between windows; never more than W, so that no frame is left out.
    include_self: a reader's own samples stay in its pool beside its own tokens (Algorithm 1).
    """

    anchors: int = 0
    tile_size: int = 0
    tile_stride: int = 1
    include_self: bool = False


def windows(count: int, size: int, stride: int) -> list[range]:
    """Windows of `size` over `count` frames. The last one is moved back to end with the story, so all are covered."""
    if size <= 0 or size >= count:
        return [range(count)]
    starts = list(range(0, count - size, min(stride, size)))
    return [range(start, start + size) for start in [*starts, count - size]]


def find_anchors(cast: Cast, k: int) -> dict[str, list[int]]:
    """The first k frames of each character in which it stands alone.

    A character that never stands alone is anchored in the first k frames that show it at all.
    """
    anchors = {}
    for name in sorted(frozenset().union(*cast)):
        alone = [frame for frame, names in enumerate(cast) if names == {name}]
        shown = [frame for frame, names in enumerate(cast) if name in names]
        anchors[name] = (alone or shown)[:k]
    return anchors


def find_lenders(cast: Cast, anchors: int) -> list[set[int]]:
    """For each frame the frames that it may borrow from, windows not yet considered."""
    if anchors:
        of = find_anchors(cast, anchors)
        return [{j for name in names for j in of[name]} - {i} for i, names in enumerate(cast)]
    return [{j for j, other in enumerate(cast) if j != i and names & other} for i, names in enumerate(cast)]


def share(frames: Sequence[int], cast: Cast | None, rules: Rules) -> list[Group]:
    """Groups of one call of the network.

    frames: frame number of each row of the batch; rows may come in any order, and not all frames need be there.
    cast: names shown in each frame of the story, indexed by frame number; None = one character in all of them.

    The rows are put in frame order first, so the groups do not depend on the order of the batch.
    """
    rows = sorted(range(len(frames)), key=lambda row: frames[row])
    cast = [EVERYONE if cast is None else cast[frames[row]] for row in rows]
    lenders = find_lenders(cast, rules.anchors)
    mutual = [{j for j in lenders[i] if i in lenders[j]} for i in range(len(rows))]
    lends = set().union(*lenders)

    estimates = [Counter() for _ in rows]
    for window in windows(len(rows), rules.tile_size, rules.tile_stride):
        for i in window:
            pool = (lenders[i] - mutual[i]) | (mutual[i] & set(window))
            # A frame that only reads meets the same pool in every window, and needs to attend to it only once.
            start = window[0] if mutual[i] else 0
            if not pool:
                estimate = ((), 0, "all")
            elif rules.include_self:
                estimate = (tuple(sorted(pool | {i})), start, "all")
            elif i in lends:
                estimate = (tuple(sorted(pool | {i})), start, "rest")
            else:
                estimate = (tuple(sorted(pool)), start, "all")
            estimates[i][estimate] += 1

    readers = defaultdict(dict)
    for i, found in enumerate(estimates):
        for estimate, times in found.items():
            readers[estimate][rows[i]] = times / found.total()
    return [
        Group(tuple(rows[j] for j in pool), who, frames[rows[start]], own)
        for (pool, start, own), who in sorted(readers.items())
    ]
