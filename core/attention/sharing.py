"""Which frames share tokens with which.

In Consistent Self-Attention a target frame attends to its own tokens and to sampled tokens of source frames; a source
lends tokens, a target borrows them. This module finds sources and targets from frame numbers and character names alone,
without tensors.

Published rules (StoryDiffusion, arXiv 2405.01434, and its code):
* mutual: every frame is a source of every other frame that shows one of its characters;
* anchors: the first k frames that show a character alone are sources of each other and of every other frame of that
  character, which is a target only;
* windows (Algorithm 1): frames share tokens only inside a window of W consecutive frames that slides along the story,
  and the estimates of all windows that contain a frame are averaged.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

Cast = Sequence[frozenset[str]]

EVERYONE = frozenset({"everyone"})


@dataclass(frozen=True)
class Group:
    """Target rows that attend to the same shared tokens.

    sources: rows whose samples are the shared tokens, in frame order; empty for plain self-attention.
    targets: rows that read them, each with the weight of this estimate; over all groups a row's weights sum to 1.
    window: first frame of the window that the samples are drawn for.
    own: the own tokens that a target adds: "all", or "rest", those that are not among the shared tokens already (so
        that every own token counts exactly once).
    stored: images of a bank whose tokens the targets read besides.
    """

    sources: tuple[int, ...]
    targets: dict[int, float]
    window: int
    own: str
    stored: tuple[int, ...] = ()


@dataclass(frozen=True)
class SharingRules:
    """The rules that find sources and targets.

    anchors: k as above; 0 = all frames are mutual.
    tile_size: W as above; 0 = one window over all frames. It limits mutual sharing, not the reading of anchors.
    tile_stride: distance between windows; at most W, so that every frame is in a window.
    include_self: a target's own samples are shared tokens in addition to all its own tokens (Algorithm 1).
    """

    anchors: int = 0
    tile_size: int = 0
    tile_stride: int = 1
    include_self: bool = False


def windows(count: int, size: int, stride: int) -> list[range]:
    """Windows of `size` over `count` frames. The last one is moved back so that it ends with the story."""
    if size <= 0 or size >= count:
        return [range(count)]
    starts = list(range(0, count - size, min(stride, size)))
    return [range(start, start + size) for start in [*starts, count - size]]


def find_anchors(cast: Cast, k: int, apart: frozenset[str] = frozenset()) -> dict[str, list[int]]:
    """The first k frames that show each character alone.

    The anchors of a character that is never alone are the first k frames that show it. apart: characters without.
    """
    anchors = {}
    for name in sorted(frozenset().union(*cast) - apart):
        alone = [frame for frame, names in enumerate(cast) if names == {name}]
        shown = [frame for frame, names in enumerate(cast) if name in names]
        anchors[name] = (alone or shown)[:k]
    return anchors


def find_sources(cast: Cast, anchors: int, apart: frozenset[str] = frozenset()) -> list[set[int]]:
    """The source frames of each frame, before windows are applied."""
    if anchors:
        anchored = find_anchors(cast, anchors, apart)
        return [{j for name in names - apart for j in anchored[name]} - {i} for i, names in enumerate(cast)]
    return [{j for j, other in enumerate(cast) if j != i and names & other - apart} for i, names in enumerate(cast)]


def find_groups(
    frames: Sequence[int], cast: Cast | None, rules: SharingRules, apart: frozenset[str] = frozenset()
) -> list[Group]:
    """The groups of one call of the network.

    frames: frame number of each row of the batch, in any order; frames may be missing.
    cast: names shown in each frame of the story, indexed by frame number; None = all frames show one character.
    apart: characters that share no tokens.

    The rows are sorted by frame first, so the groups do not depend on the order of the batch.
    """
    rows = sorted(range(len(frames)), key=lambda row: frames[row])
    cast = [EVERYONE if cast is None else cast[frames[row]] for row in rows]
    sources = find_sources(cast, rules.anchors, apart)
    mutual = [{j for j in sources[i] if i in sources[j]} for i in range(len(rows))]
    is_source = set().union(*sources)

    estimates = [Counter() for _ in rows]
    for window in windows(len(rows), rules.tile_size, rules.tile_stride):
        for i in window:
            read = (sources[i] - mutual[i]) | (mutual[i] & set(window))
            # A frame that is a target only has the same sources in every window, so it attends to them once.
            start = window[0] if mutual[i] else 0
            if not read:
                estimate = ((), 0, "all")
            elif rules.include_self:
                estimate = (tuple(sorted(read | {i})), start, "all")
            elif i in is_source:
                estimate = (tuple(sorted(read | {i})), start, "rest")
            else:
                estimate = (tuple(sorted(read)), start, "all")
            estimates[i][estimate] += 1

    targets = defaultdict(dict)
    for i, found in enumerate(estimates):
        for estimate, times in found.items():
            targets[estimate][rows[i]] = times / found.total()
    return [
        Group(tuple(rows[j] for j in read), weights, frames[rows[start]], own)
        for (read, start, own), weights in sorted(targets.items())
    ]


def with_stored(group: Group, images: Sequence[tuple[int, ...]]) -> list[Group]:
    """A group in parts, each of which reads the same images of a bank. images: what each row of the batch reads."""
    targets = defaultdict(dict)
    for row, weight in group.targets.items():
        targets[images[row]][row] = weight
    return [replace(group, targets=rows, stored=stored) for stored, rows in targets.items()]
