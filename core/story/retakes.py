"""Which of several tries of a frame is kept, and a report of them.

A frame is drawn again with other seeds until its score reaches a threshold or no try is left. The best one is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..text import numbered


def next_try(scores: Sequence[float | None], threshold: float) -> tuple[int, bool]:
    """The place of the try that comes next, and whether it is the one that is kept.

    scores: of all tries that a frame may have, None before one is scored. Of equal scores, the first is the best.
    """
    found: list[float] = []
    for place, score in enumerate(scores):
        if score is None or score >= threshold:
            return place, score is not None
        found.append(score)
    return found.index(max(found)), True


@dataclass(frozen=True)
class FrameReport:
    """What is known of a frame. seeds: of its tries; of a frame that is not scored, of its image. scores: of those that
    were drawn. kept: the place of one. against: the anchor frames that it is compared with, from 0. note: in words."""

    seeds: Sequence[int]
    scores: Sequence[float] = ()
    kept: int = 0
    against: Sequence[int] = ()
    note: str = ""


def in_words(head: str, frames: Sequence[FrameReport]) -> str:
    """A line about how frames are scored, and one for each frame."""
    return "\n".join([head, "", *(f"  {number}. {_line(frame)}" for number, frame in enumerate(frames, 1))])


def _line(frame: FrameReport) -> str:
    if not frame.scores:
        return f"seed {frame.seeds[0]}{f' ({frame.note})' if frame.note else ''}"
    tries = [f"seed {seed}: {score:.3f}" for seed, score in zip(frame.seeds, frame.scores, strict=False)]
    if len(tries) > 1:
        tries[frame.kept] += " (kept)"
    return f"{', '.join(tries)}; against {numbered('frame', [anchor + 1 for anchor in frame.against])}"
