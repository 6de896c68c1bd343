"""Texts from users, programs and files, in a form that messages can hold."""

from collections.abc import Sequence


def encodable(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD: none can be written to a log, a file or a connection.

    Half of an emoji is one, as programs leave it that cut a text by 16-bit units. Two halves in a row become the emoji.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(name, longest: int = 80) -> str:
    """A name from a file in a message: on one line, at most `longest` letters, and encodable, whatever the name is."""
    text = encodable(name) if isinstance(name, str) else repr(name)[: longest + 1]
    if not text.isprintable():
        text = repr(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def joined(words: Sequence[str], last: str = "and") -> str:
    """Words in a sentence: "a", "a and b", "a, b and c"."""
    *before, end = words
    return f"{', '.join(before)} {last} {end}" if before else end


def numbered(what: str, numbers: Sequence[int]) -> str:
    """Ascending numbers in a sentence: "frame 3", "frames 3 and 5", "frames 3, 5-8 and 11"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
    return f"{what}{'s'[: len(numbers) != 1]} {joined(parts)}"
