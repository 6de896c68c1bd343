"""Captions as lines of text: which glyphs draw them, where lines may break, and the largest size that fits.

Where lines may break follows the parts of Unicode's UAX #14 and of JLREQ (W3C, "Requirements for Japanese Text Layout",
3.1.7 and 3.1.10) that captions need: between words; between Chinese characters and kana, but with closing marks and
small kana never first on a line, opening marks never last, and paired dashes and dots never apart. Korean breaks
between words. No word is hyphenated.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import ImageFont

from .fonts import Face

LEGIBLE = 9  # pixels an em below which no caption is set
SHARE_LARGE, SHARE_SMALL = 0.32, 0.5  # of the room's height that text may fill, at the largest and the smallest size

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
# Marks that steer a layout and are never seen.
STEERING = re.compile("[\u00ad\u200e\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


@dataclass(frozen=True)
class Lettering:
    """A caption ready to be drawn `size` px high: `lines` are `pitch` px apart, the first baseline `ascent` px down.

    width, height: what the drawn lines take, in pixels. fits: whether that is within the room they were given.
    """

    lines: tuple[str, ...]
    size: int
    width: int
    height: int
    ascent: int
    pitch: int
    fits: bool


class Letterer:
    """Sets text in the first of `faces` that has each character's glyph."""

    def __init__(self, faces: Sequence[Face]):
        self.faces = tuple(faces)

    def missing(self, text: str) -> list[str]:
        """The characters of `text` that no face has a glyph for, each once, in order."""
        text = _visible(clean(text))
        return [c for c in dict.fromkeys(text) if c not in JOINERS and not any(face.covers(c) for face in self.faces)]

    def runs(self, line: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """The line in pieces of one face each. No character may be missing."""
        line = "".join(c for c in _visible(line) if c not in JOINERS or any(face.covers(c) for face in self.faces))
        # Quotation marks, dashes and dots are as wide as a character in Chinese and Japanese, and narrow in English.
        wide_first = sorted(self.faces, key=lambda face: not face.wide) if any(map(_ideographic, line)) else self.faces
        run, current = "", None
        for character in line:
            ambiguous = unicodedata.east_asian_width(character) == "A" and not character.isalpha()
            order = wide_first if ambiguous else self.faces
            if current is not None and _clings(character) and current.covers(character):
                face = current
            else:
                face = next(face for face in order if face.covers(character))
            if face is not current and run:
                yield run, current.at(size)
                run = ""
            run, current = run + character, face
        if run:
            yield run, current.at(size)

    def measure(self, line: str, size: int) -> float:
        """Width of a line in pixels."""
        return sum(font.getlength(run) for run, font in self.runs(line, size))

    def ink(self, line: str, size: int) -> tuple[int, int]:
        """How far a line's ink reaches above and below the baseline, in pixels."""
        boxes = [font.getbbox(run, anchor="ls") for run, font in self.runs(line, size)]
        return max(0, *(-box[1] for box in boxes)), max(0, *(box[3] for box in boxes))

    def fit(self, text: str, width: int, height: int, largest: int) -> Lettering:
        """Set `text` in a room of width x height px, at most `largest` px high and as large as fits.

        The text may fill a third of the room's height, and more the smaller it has to be set, up to one half at
        `LEGIBLE`. Where that is not enough it is set at `LEGIBLE`, takes what it needs, and `fits` is False.
        """
        text = clean(text)
        low, high = LEGIBLE + 1, largest
        best = self._set(text, width, height, LEGIBLE, largest)
        while low <= high:
            size = (low + high) // 2
            attempt = self._set(text, width, height, size, largest)
            if attempt.fits:
                best, low = attempt, size + 1
            else:
                high = size - 1
        return self._balanced(best, text) if best.fits else best

    def _set(self, text: str, width: int, height: int, size: int, largest: int) -> Lettering:
        """`text` at one size; a word is cut only where it is too long at `LEGIBLE`."""
        lines, whole = wrap(text, width, lambda line: self.measure(line, size))
        lettering = self._block(lines, size)
        small = 1 if size == LEGIBLE else (largest - size) / (largest - LEGIBLE)
        room = height * (SHARE_LARGE + (SHARE_SMALL - SHARE_LARGE) * small)
        fits = lettering.height <= room and lettering.width <= width and (whole or size == LEGIBLE)
        return replace(lettering, fits=fits)

    def _balanced(self, lettering: Lettering, text: str) -> Lettering:
        """The same number of lines in the narrowest block, so that no word stands alone on the last."""

        def measure(line: str) -> float:
            return self.measure(line, lettering.size)

        narrow, wide = 0, lettering.width
        best = lettering.lines
        while narrow < wide:
            middle = (narrow + wide) // 2
            attempt, whole = wrap(text, middle, measure)
            if whole and len(attempt) == len(best):
                best, wide = attempt, middle
            else:
                narrow = middle + 1
        return self._block(best, lettering.size)

    def _block(self, lines: Sequence[str], size: int) -> Lettering:
        inks = [self.ink(line, size) for line in lines]
        # Even a line of low letters keeps the height of a capital, so that neighbouring captions look alike.
        ascent = max(round(0.7 * size), *(above for above, _ in inks))
        descent = max(round(0.2 * size), *(below for _, below in inks))
        pitch = max(round(1.18 * size), ascent + descent + 1)
        width = max(round(self.measure(line, size)) for line in lines)
        height = ascent + pitch * (len(lines) - 1) + descent
        return Lettering(tuple(lines), size, width, height, ascent, pitch, fits=True)


def clean(text: str) -> str:
    """`text` with composed accents and syllables, single spaces, and French marks and dashes bound to their word."""
    text = STEERING.sub("", unicodedata.normalize("NFC", text))
    text = re.sub(r"[ \t\r\n\v\f]+", " ", text).strip(SPACES + UNBREAKABLE + JOINERS)
    text = re.sub(r"((?:^|\s)[«‹]) ", "\\1\u00a0", text)
    return re.sub(r" (?=[»›!?:;](?!\w)|[–—] )", "\u00a0", text)


def wrap(text: str, width: float, measure: Callable[[str], float]) -> tuple[list[str], bool]:
    """Lines of at most `width`, as `measure` tells it, and whether every unbreakable piece stayed whole.

    A piece that is wider than a line is cut between letters. At least one letter stands on every line.
    """
    lines, whole, line = [], True, ""
    for piece in pieces(text):
        if not line or measure((line + piece).rstrip(SPACES)) <= width:
            line += piece
        else:
            lines.append(line.rstrip(SPACES))
            line = piece
        while measure(line.rstrip(SPACES)) > width:
            head, rest = _cut(line, width, measure)
            if not rest.strip(SPACES):  # a single letter, wider than the line
                break
            lines.append(head)
            line = rest
            whole = False
    return [*lines, line.rstrip(SPACES)], whole


def _cut(line: str, width: float, measure: Callable[[str], float]) -> tuple[str, str]:
    """The longest beginning of `line` that is within `width`, and the rest; marks stay with their letter."""
    ends = [i for i in range(1, len(line) + 1) if i == len(line) or not _clings(line[i])]
    end = ends[0]
    for candidate in ends[1:]:
        if measure(line[:candidate]) > width:
            break
        end = candidate
    return line[:end], line[end:]


def pieces(text: str) -> list[str]:
    """`text` cut wherever a line may break; spaces stay at the end of the piece before them."""
    breaks = [i for i in range(1, len(text)) if _may_break(text, i)]
    return [text[start:end] for start, end in zip([0, *breaks], [*breaks, len(text)], strict=True) if end > start]


def _may_break(text: str, i: int) -> bool:
    """Whether a line may begin with text[i], i > 0."""
    before, after = text[i - 1], text[i]
    if after in SPACES or _clings(after) or before == "\u200d":
        return False
    if before in SPACES:
        return True
    if after in NOT_FIRST or before in NOT_LAST:
        return False
    if _ideographic(before) or _ideographic(after):
        # Straight quotes do not tell whether they open or close; a space that must not break is a letter here.
        return not {before, after} & {'"', "'", *UNBREAKABLE}
    # Everything else is inside a word, or a pair such as —— that nothing may part.
    return before in DASHES and after.isalpha() and text[i - 2 : i - 1].isalnum()


def _ideographic(character: str) -> bool:
    """Chinese characters, kana, their punctuation and full-width forms; not hangul, whose words are spaced."""
    if unicodedata.east_asian_width(character) in "WF":
        return not any(first <= character <= last for first, last in HANGUL)
    return "\uff61" <= character <= "\uff9f"


def _clings(character: str) -> bool:
    """Whether a character belongs to the one before it: accents, vowel signs, joiners."""
    return unicodedata.category(character).startswith("M") or character in JOINERS


def _visible(text: str) -> str:
    """`text` as it is drawn: every kind of space the one that all fonts have."""
    return re.sub("[\u00a0\u2000-\u200a\u202f\u205f]", " ", text).replace("\u200b", "")
