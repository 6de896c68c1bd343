"""What each frame of a long story is made from, as keys: equal keys are equal images.

The key of a frame covers what it reads: its prompt, its seed, the settings, and the anchor frames of its characters or
their images in a bank. It covers neither its number nor its caption nor any other frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...core.attention.anchor_groups import AnchorGroup
from ...core.attention.sharing import Cast
from ...core.text import joined, numbered
from ..common.run_folder import name_of
from .drawn_frames import Index

LENGTH = 12  # letters of a key


@dataclass(frozen=True)
class Try:
    """A frame with one of its seeds. own, key: as in the plan."""

    seed: int
    own: str
    key: str


@dataclass(frozen=True)
class FramePlan:
    """own: a key of what each frame itself reads. keys: of each frame. groups: the anchor frames, and their keys.
    reads: {character: key of what is read of that one}, frame by frame. tries: of each frame; the first has its own
    seed, and the others are its retakes."""

    own: list[str]
    keys: list[str]
    groups: list[AnchorGroup]
    group_keys: list[str]
    reads: list[dict[str, str]]
    tries: list[tuple[Try, ...]]

    def group_of(self, number: int) -> int | None:
        """The place of the group that has the frame as an anchor frame; None for other frames."""
        return next((place for place, group in enumerate(self.groups) if number in group.frames), None)

    def anchors_of(self, number: int, cast: Cast, character: str | None = None) -> tuple[int, ...]:
        """The anchor frames that show a character of the frame, ascending: those that it reads. character: only those
        of this one."""
        names = cast[number] if character is None else frozenset({character})
        found = {anchor for group in self.groups for anchor in group.frames if cast[anchor] & names & group.characters}
        return tuple(sorted(found))


def make_plan(
    tries: Sequence[Sequence[tuple[int, str]]],
    cast: Cast,
    groups: Sequence[AnchorGroup],
    anchors: int,
    bank: Mapping[str, str],
) -> FramePlan:
    """tries: (seed, own key) of each try, frame by frame. anchors: frames of a character. bank: {character: key of its
    images} of a bank."""
    own = [first[1] for first, *_ in tries]
    group_keys: list[str] = []
    by_name = dict(bank)
    for group in groups:
        frames = [[own[number], sorted(cast[number])] for number in group.frames]
        shown = frozenset().union(*(cast[number] for number in group.frames))
        read = {name: bank[name] for name in shown & bank.keys()}
        group_keys.append(name_of([frames, sorted(group.characters), anchors, read])[:LENGTH])
        by_name |= dict.fromkeys(group.characters, group_keys[-1])
    reads = [{name: by_name[name] for name in sorted(names)} for names in cast]
    keyed = [
        tuple(Try(seed, name, name_of([name, read])[:LENGTH]) for seed, name in entries)
        for entries, read in zip(tries, reads, strict=True)
    ]
    for group, key in zip(groups, group_keys, strict=True):
        for place, number in enumerate(group.frames):
            keyed[number] = tuple(replace(one, key=name_of([key, place])[:LENGTH]) for one in keyed[number])
    return FramePlan(own, [first.key for first, *_ in keyed], list(groups), group_keys, reads, keyed)


def describe_dependents(plan: FramePlan, index: Index, missing: Sequence[int]) -> list[str]:
    """Which frames are drawn again for no change of their own, group by group, and which anchor frames changed.

    missing: frames that will be drawn, from 0.
    """
    before = {}
    for drawn in index.frames.values():
        before.setdefault(drawn.own, drawn)
    sentences = []
    for group, key in zip(plan.groups, plan.group_keys, strict=True):
        if key in index.banks:
            continue
        again, names = [], set()
        for number in missing:
            drawn = next((before[one.own] for one in plan.tries[number] if one.own in before), None)
            if drawn is None or number in group.frames:
                continue
            changed = {name for name in group.characters if plan.reads[number].get(name, key) != drawn.groups.get(name)}
            changed &= plan.reads[number].keys() & drawn.groups.keys()
            if changed:
                again.append(number + 1)
                names |= changed
        if again:
            sentences.append(
                _sentence(plan, group, again, names, [n for n in group.frames if plan.own[n] not in before])
            )
    return sentences


def _sentence(plan: FramePlan, group: AnchorGroup, again: list[int], names: set[str], changed: list[int]) -> str:
    frames = numbered("frame", again)
    what = numbered("anchor frame", [number + 1 for number in changed]) if changed else "anchor frames"
    verb, they = ("is", "it shows") if len(again) == 1 else ("are", "they show")
    shown = joined([name or "the character" for name in sorted(names)], "or")
    return f"{frames} {verb} drawn again because {they} {shown}, whose {what} changed."
