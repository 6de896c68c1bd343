"""Where the lines of a caption may break, and lines of at most a given width.

Breaks follow the parts of Unicode's UAX #14 and of JLREQ (W3C, "Requirements for Japanese Text Layout", 3.1.7 and
3.1.10) that captions need: between words; between Chinese characters and kana, but with closing marks and small kana
never first on a line, opening marks never last, and paired dashes and dots never apart. Korean breaks between words.
No word is hyphenated.
"""

import functools
import unicodedata
from bisect import bisect_right
from collections.abc import Callable

NOT_FIRST = frozenset(
    "、。，．・：；？！゛゜´｀¨ヽヾゝゞ々〻ー〜～‐–…‥）］｝〉》」』】〕〗〙〟｠»›’”％‰°′″℃"
    "ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶㇰㇱㇲㇳㇴㇵㇶㇷㇸㇹㇺㇻㇼㇽㇾㇿ"
    "｡､｣･ｧｨｩｪｫｬｭｮｯｰﾞﾟ,.:;?!)]}%"
)
NOT_LAST = frozenset("（［｛〈《「『【〔〖〘〝｟｢«‹‘“＄￥＃¥$#([{")
SPACES = " \u3000\u200b"
DASHES = "-‐–—"
HANGUL = (("\u1100", "\u11ff"), ("\u3130", "\u318f"), ("\uac00", "\ud7a3"))
JOINERS = "\u200c\u200d"
UNBREAKABLE = "\u00a0\u202f"


def wrap(
    text: str, width: float, measure: Callable[[str], float], most_lines: int | None = None
) -> tuple[list[str], bool]:
    """Lines of at most `width`, as `measure` tells it, and whether every unbreakable piece stayed whole.

    A piece that is wider than a line is cut between letters. At least one letter stands on every line. Text behind
    `most_lines` is left out, and is not measured. What is measured grows with the text's length, not faster.
    """
    piece_ends, letter_ends = break_points(text)
    lines, whole, start = [], True, 0
    while start < len(text) and len(lines) != most_lines:
        furthest = _last_that_fits(text, start, letter_ends, width, measure)
        last_piece = bisect_right(piece_ends, furthest) - 1
        if last_piece >= 0 and piece_ends[last_piece] > start:
            end = piece_ends[last_piece]
        else:  # not even one piece
            end = piece_ends[last_piece + 1]
            if text[furthest:end].strip(SPACES):
                end, whole = furthest, False
        lines.append(text[start:end].rstrip(SPACES))
        start = end
    return lines or [""], whole


def _last_that_fits(text: str, start: int, ends: list[int], width: float, measure: Callable[[str], float]) -> int:
    """The last of `ends` up to which `text` fits from `start` on, at least the first behind `start`.

    Steps double until one is too far: what lies far behind the line is never measured.
    """

    def fits(index: int) -> bool:
        return measure(text[start : ends[index]].rstrip(SPACES)) <= width

    low, step, high = bisect_right(ends, start), 1, len(ends)
    while low + step < high:
        if fits(low + step):
            low, step = low + step, 2 * step
        else:
            high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return ends[low]


@functools.lru_cache(maxsize=4)
def break_points(text: str) -> tuple[list[int], list[int]]:
    """Where the pieces of a text end, and where its letters do, with the marks that belong to them."""
    inner = range(1, len(text))
    last = [len(text)] if text else []
    return (
        [i for i in inner if _may_break(text, i)] + last,
        [i for i in inner if not clings(text[i])] + last,
    )


def _may_break(text: str, i: int) -> bool:
    """Whether a line may begin with text[i], i > 0."""
    before, after = text[i - 1], text[i]
    if after in SPACES or clings(after) or before == "\u200d":
        return False
    if before in SPACES:
        return True
    if after in NOT_FIRST or before in NOT_LAST:
        return False
    if ideographic(before) or ideographic(after):
        # Straight quotes do not tell whether they open or close; a space that must not break is a letter here.
        return not {before, after} & {'"', "'", *UNBREAKABLE}
    # Everything else is inside a word, or a pair such as —— that nothing may part.
    return before in DASHES and after.isalpha() and text[i - 2 : i - 1].isalnum()


def ideographic(character: str) -> bool:
    """Chinese characters, kana, their punctuation and full-width forms; not hangul, whose words are spaced."""
    if unicodedata.east_asian_width(character) in "WF":
        return not any(first <= character <= last for first, last in HANGUL)
    return "\uff61" <= character <= "\uff9f"


def clings(character: str) -> bool:
    """Whether a character belongs to the one before it: accents, vowel signs, joiners."""
    return unicodedata.category(character).startswith("M") or character in JOINERS
