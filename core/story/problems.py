"""Messages about a story's mistakes: the first ones, with short quotes and the nearest name."""

import difflib
import itertools
from collections.abc import Callable, Iterable

from ..text import encodable

SHOWN = 20  # mistakes that one error spells out
QUOTED = 40  # characters of a name in a sentence; longer names get no suggestion either
LISTED = 8  # names in a list
COMPARED = 200  # names that a wrong one is compared with


class ScriptError(ValueError):
    """A script cannot be read.

    `problems` holds one line for each of the first mistakes, `count` is the number of all; str() gives both.
    """

    def __init__(self, problems: Iterable[str], count: int):
        self.problems = tuple(problems)
        self.count = count
        lines = [f"The script has {count} problems:"] if count > 1 else []
        lines += self.problems
        if count > len(self.problems):
            lines.append(f"... and {count - len(self.problems)} more")
        super().__init__("\n".join(lines))


class Problems:
    """Collects mistakes: counts all, and describes the first `SHOWN`."""

    def __init__(self):
        self.lines: list[str] = []
        self.count = 0

    def add(self, where: str, describe: str | Callable[[], str]) -> None:
        """where: "scenes line 3". describe: what is wrong there, or a function that describes it."""
        self.count += 1
        if self.count <= SHOWN:
            self.lines.append(f"{where}{': ' if where else ''}{describe if isinstance(describe, str) else describe()}")

    def check(self) -> None:
        """Raise ScriptError where anything was added."""
        if self.count:
            raise ScriptError(self.lines, self.count)


def quoted(text: str) -> str:
    """A name or a style in a sentence: short, in one line, and fit for any connection."""
    text = encodable(" ".join(text.split()))
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}..."


def listed(items: Iterable[str], count: int) -> str:
    """The first of `count` items, and how many more there are."""
    shown = list(itertools.islice(items, LISTED))
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def did_you_mean(word: str, choices: Iterable[str], form: str) -> str:
    """A question after the nearest of `choices`, or nothing. One letter of two may differ: many names have only two."""
    if len(word) > QUOTED:
        return ""
    short = (choice for choice in choices if len(choice) <= QUOTED)
    by_folded = {choice.casefold(): choice for choice in itertools.islice(short, COMPARED)}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean {form.format(by_folded[near[0]])}?" if near else ""
