"""What a file of ours says of itself in its metadata: JSON, read field by field, each within its bounds.

Each of the readers below takes the name of a value, for the sentence, and the value, and gives it back in the form that
our code wants. All raise Unreadable.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..text import short
from .refusal import Unreadable

LONGEST = 2**20  # letters

T = TypeVar("T")
Read = Callable[[str, object], T]


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    least: int
    most: int

    def __call__(self, name: str, value) -> int:
        if type(value) is not int or not self.least <= value <= self.most:
            raise _unexpected(name, value, f"a whole number from {self.least} to {self.most}")
        return value


@dataclass(frozen=True)
class Real:
    """A number."""

    least: float
    most: float

    def __call__(self, name: str, value) -> float:
        # Bounds first: they keep out NaN, and whole numbers that no float holds.
        if type(value) not in (int, float) or not self.least <= value <= self.most:
            raise _unexpected(name, value, f"a number from {self.least:g} to {self.most:g}")
        return float(value)


@dataclass(frozen=True)
class Text:
    """A text of up to so many letters. lines: whether it may have several, or any other letters than printable ones."""

    most: int = 500
    lines: bool = False

    def __call__(self, name: str, value) -> str:
        if not isinstance(value, str) or len(value) > self.most or not (self.lines or value.isprintable()):
            raise _unexpected(name, value, f"a {'text' if self.lines else 'line'} of up to {self.most} letters")
        return value


@dataclass(frozen=True)
class One:
    """One of some values."""

    of: tuple

    def __call__(self, name: str, value):
        if not any(type(value) is type(known) and value == known for known in self.of):
            raise _unexpected(name, value, " or ".join(json.dumps(known) for known in self.of))
        return value


switch = One((True, False))


@dataclass(frozen=True)
class Each:
    """A list of so many values, each read by `read`; a tuple in our code, a list where `as_list`."""

    read: Read
    least: int
    most: int
    as_list: bool = False

    def __call__(self, name: str, value) -> tuple | list:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            raise _unexpected(name, value, f"a list of {count}")
        found = [self.read(f"{name}[{number}]", entry) for number, entry in enumerate(value)]
        return found if self.as_list else tuple(found)


@dataclass(frozen=True)
class Rising:
    """A list in which each number is more than the one before, or where `falling` less. by: the field that counts, of
    a list of objects."""

    read: Each
    by: str | None = None
    falling: bool = False

    def __call__(self, name: str, value) -> tuple | list:
        found = self.read(name, value)
        numbers = found if self.by is None else [entry[self.by] for entry in found]
        field = "" if self.by is None else f".{self.by}"
        for place, (before, number) in enumerate(zip(numbers, numbers[1:], strict=False), 1):
            if number >= before if self.falling else number <= before:
                than = "less" if self.falling else "more"
                raise _unexpected(f"{name}[{place}]{field}", number, f"{than} than {before}")
        return found


@dataclass(frozen=True)
class Maybe:
    """A value, or none."""

    read: Read

    def __call__(self, name: str, value):
        return None if value is None else self.read(name, value)


@dataclass(frozen=True)
class Fields:
    """An object of these fields and no others. required: those that may not be left out."""

    fields: Mapping[str, Read]
    required: tuple[str, ...] = ()

    def __call__(self, name: str, value) -> dict:
        if not isinstance(value, dict):
            raise Unreadable(f"{name} is no list of values by name, but {short(value)}")
        if unknown := sorted(value.keys() - self.fields.keys()):
            listed = ", ".join(map(short, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
            raise Unreadable(f"{name} states {listed}, which this version does not know")
        if missing := [field for field in self.required if field not in value]:
            raise Unreadable(f"{name} states no {missing[0]}")
        return {field: self.fields[field](f"{name}.{field}", entry) for field, entry in value.items()}


def read_stated(name: str, text: str, read: Read[T], longest: int = LONGEST) -> T:
    """What stands under `name` in a file's metadata, in at most `longest` letters."""
    if len(text) > longest:
        raise Unreadable(f"{name} has {len(text):,} letters; {longest:,} at most were expected")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{name} is no JSON, but {short(text)}") from error
    return read(name, value)


def _unexpected(name: str, value, expected: str) -> Unreadable:
    return Unreadable(f"{name} is {_value(value)}; {expected} was expected")


def _value(value) -> str:
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return short(repr(value))
    if isinstance(value, int) and abs(value) > 10**20 or isinstance(value, float) and not math.isfinite(value):
        return "beyond any bound" if isinstance(value, int) else str(value)
    return short(value)
