"""The table of seeds and locks of a story's frames, and the seeds of all others.

One line a frame, which counts from 1: "7 123456" gives it a seed, "9 locked" keeps its image, "9 42 locked" does both.
A # begins a comment. The story's own syntax stays the published one.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..text import short

LOCKED = "locked"
LARGEST_SEED = 2**64 - 1
NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True)
class FrameEntry:
    """What the table says of a frame. seed: None = the frame's own."""

    seed: int | None = None
    locked: bool = False


def read_table(text: str, count: int) -> dict[int, FrameEntry]:
    """{frame number from 0: entry} of a table for a story of `count` frames.

    Raises ValueError for a line that is none of the above, a frame that the story does not have or that has two lines,
    and a seed beyond 64 bits, with the number of the line.
    """
    entries, lines = {}, {}
    for line, content in enumerate(text.splitlines(), 1):
        words = content.partition("#")[0].split()
        if not words:
            continue
        where = f"frames, line {line}: "
        frame = _frame_number(where, words[0], count)
        if frame in entries:
            raise ValueError(
                f"{where}frame {frame + 1} is in line {lines[frame]} already; one line a frame is expected."
            )
        entries[frame], lines[frame] = _entry(where, words), line
    return entries


def _frame_number(where: str, word: str, count: int) -> int:
    if not NUMBER.fullmatch(word):
        raise ValueError(f"{where}{short(word, 30)} is no number of a frame; a line such as 7 123456 is expected.")
    if not 1 <= int(word) <= count:
        raise ValueError(f"{where}frame {int(word)} does not exist; the story has frames 1 to {count}.")
    return int(word) - 1


def _entry(where: str, words: list[str]) -> FrameEntry:
    frame, *values = words
    locked = bool(values) and values[-1].lower() == LOCKED
    seeds = values[:-1] if locked else values
    if len(seeds) > 1 or not values:
        raise ValueError(f"{where}after the frame {frame}, a seed, the word {LOCKED} or both are expected.")
    if not seeds:
        return FrameEntry(locked=locked)
    if not NUMBER.fullmatch(seeds[0]) or int(seeds[0]) > LARGEST_SEED:
        raise ValueError(
            f"{where}{short(seeds[0], 30)} is no seed; a number from 0 to {LARGEST_SEED} or {LOCKED} is expected."
        )
    return FrameEntry(int(seeds[0]), locked)


def occurrences(prompts: Sequence[str]) -> list[int]:
    """How many frames before a frame have its prompt, frame by frame."""
    seen, found = Counter(), []
    for prompt in prompts:
        found.append(seen[prompt])
        seen[prompt] += 1
    return found


def seed_of(seed: int, prompt: str, occurrence: int) -> int:
    """A frame's own seed, from that of the story and from nothing that another frame with another prompt changes."""
    return _hashed(seed, prompt, occurrence)


def retake_seed(seed: int, number: int) -> int:
    """The seed of retake `number`, from 1, of a frame whose own seed is `seed`."""
    return _hashed(seed, "retake", number)


def _hashed(*words: int | str) -> int:
    """A seed of 64 bits."""
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "big")
