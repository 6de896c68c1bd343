r"""The lines of a script as its author means them: without comments, in one Unicode form, with \# for a number sign."""

import re
import unicodedata
from collections.abc import Iterator

# A comment opens a line or follows a space, so that "http://..." keeps its end. The browser takes comments out before
# it queues a prompt, as it does for CLIP Text Encode, with any // wherever it stands.
_COMMENT = re.compile(r"/\*|(?<!\S)//[^\n\r\u2028\u2029]*")
_CAPTION = re.compile(r"(?<!\\)#")
MOST_MARKS = 30  # accents on one letter, as in Unicode's stream-safe format (UAX #15)
GRAPHEME_JOINER = "\u034f"  # stands between more of them: a run without end takes quadratic time to be put in order

# Characters that are never seen, beside all of category Cf: joiners, fillers, vowels without a shape, variants.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE10)}
# Letters that join, as Arabic and the scripts of India do, and the parts of an emoji are written with these two.
_JOINERS, _FIRST_JOINING = "\u200c\u200d", "\u0600"


def read_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of each line that says something, in composed form, stripped.

    Composed, so that a name is the same name whichever way its accents or kana marks were typed.
    """
    text = without_comments(text.removeprefix("\ufeff"))
    for number, line in enumerate(unicodedata.normalize("NFC", _stream_safe(text)).splitlines(), 1):
        if line := line.strip():
            yield number, line


def without_comments(text: str) -> str:
    """`text` without // to the end of a line and /* ... */ over any lines, which leaves no line of its own."""
    kept, at = [], 0
    while match := _COMMENT.search(text, at):
        end = match.end()
        if match[0] == "/*":
            end = text.find("*/", end) + 2
            if end == 1:  # nothing closes it, nor any after it: text, up to a // that may follow
                kept.append(text[at : match.start()])
                kept.append(re.sub(r"(?<!\S)//[^\n\r\u2028\u2029]*", "", text[match.start() :]))
                return "".join(kept)
        kept.append(text[at : match.start()])
        at = end
    return "".join([*kept, text[at:]])


def _stream_safe(text: str) -> str:
    if text.isascii():
        return text
    parts, start, run = [], 0, 0
    for i, character in enumerate(text):
        run = run + 1 if character > "\u02ff" and unicodedata.combining(character) else 0
        if run > MOST_MARKS:
            parts += [text[start:i], GRAPHEME_JOINER]
            start, run = i, 1
    return "".join([*parts, text[start:]])


def split_at_mark(line: str) -> tuple[str, str | None, int]:
    r"""A line before and behind its last # (None without one), and how many # it has; \# is text and comes out as #."""
    marks = [match.start() for match in _CAPTION.finditer(line)]
    if not marks:
        return unescaped(line), None, 0
    return unescaped(line[: marks[-1]]), unescaped(line[marks[-1] + 1 :]), len(marks)


def unescaped(text: str) -> str:
    return text.replace("\\#", "#")


def tidy(text: str) -> str:
    return " ".join(text.split())


def visible(text: str) -> str:
    """`text` without the characters that are never seen."""
    return text if text.isascii() and text.isprintable() else "".join(c for c in text if not _is_unseen(c))


def invisible(name: str) -> str:
    """The first character of a name that is never seen, as in "U+200B (ZERO WIDTH SPACE)", or ""."""
    return next((code_point(character) for character in name if _is_unseen(character)), "")


def misplaced(name: str) -> str:
    """As `invisible`, for a character that no name may hold. Between letters that join, a joiner is spelling."""
    if name.isascii() and name.isprintable():
        return ""
    for before, character in zip(" " + name, name, strict=False):
        spelling = character in _JOINERS and before >= _FIRST_JOINING
        if unicodedata.category(character) in ("Cf", "Cc") and not spelling:
            return code_point(character)
    return ""


def code_point(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}" + (f" ({name})" if name else "")


def _is_unseen(character: str) -> bool:
    return character in _UNSEEN or unicodedata.category(character) in ("Cf", "Cc")
