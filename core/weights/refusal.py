"""What is wrong with a file of weights, in one line."""

from collections.abc import Mapping, Sequence

from ..text import short

MOST_TENSORS = 2**15  # of a file; a published checkpoint with its optimizer has a fifth
LARGEST_SIDE = 2**20  # of a weight that networks of ours have; a tokenizer's words are a fifth


class Unreadable(ValueError):
    """A message that follows the name of a file: what was found and what was expected."""

    def of(self, name: str) -> str:
        """The sentence about the file of this name."""
        text = str(self)
        return f"{name}{'' if text.startswith(',') else ' '}{text}."


class Misfit(Unreadable):
    """A weight that is not as a network needs it."""

    def __init__(self, key: str, found: str, expected: str):
        super().__init__(f"holds {short(key)} as {found}, and {expected} was expected")


def shape_shown(shape) -> str:
    """(320, 4, 3, 3) as 320 x 4 x 3 x 3."""
    return " x ".join(short(side) for side in shape[:8]) + (" x ..." if len(shape) > 8 else "") or "a single number"


def sides(shapes: Mapping[str, Sequence[int]], key: str, count: int | None = None) -> tuple[int, ...]:
    """The shape of a weight, which has `count` sides, or any number from 1 on.

    Raises KeyError if there is no such weight, and Misfit for one that is no part of any network.
    """
    found = tuple(shapes[key])
    if len(found) != count and (count is not None or not found):
        raise Misfit(key, shape_shown(found), f"a shape of {count or 'several'} sides")
    if not all(1 <= side <= LARGEST_SIDE for side in found):
        raise Misfit(key, shape_shown(found), f"a shape of sides from 1 to {LARGEST_SIDE:,}")
    return found


def check_bounds(**numbers: tuple[int, int, int]) -> None:
    """Raise Unreadable for a number out of bounds. numbers: {what it counts: (number, least, most)}"""
    for name, (number, least, most) in numbers.items():
        if not least <= number <= most:
            what = name.replace("_", " ")
            raise Unreadable(f"has weights for {short(number)} {what}, and {least} to {most} were expected")
