"""Captions as lines of text: which glyphs draw them, and the largest size that fits."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from PIL import ImageFont

from .fonts import BOXES, Face
from .wrapping import JOINERS, SPACES, UNBREAKABLE, clings, ideographic, wrap

LEGIBLE = 9  # pixels an em below which no caption is set
SHARE_LARGE, SHARE_SMALL = 0.32, 0.5  # of the room's height that text may fill, at the largest and the smallest size

# Marks that steer a layout, a glyph's form or a flag, and are never seen.
STEERING = re.compile("[\u00ad\u034f\u200e\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]")


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
    """Sets text in the first of `faces` that has each character's glyph; what none has becomes a box."""

    def __init__(self, faces: Sequence[Face]):
        self.faces = tuple(faces)
        # Quotation marks, dashes and dots are as wide as a character in Chinese and Japanese, and narrow in English.
        self._wide_first = tuple(sorted(self.faces, key=lambda face: not face.wide))
        self._found: dict[tuple[str, bool], Face] = {}

    def missing(self, text: str) -> list[str]:
        """The characters of `text` that no face has a glyph for, each once, in order."""
        text = _visible(clean(text))
        return [c for c in dict.fromkeys(text) if c not in JOINERS and not self._covered(c)]

    def runs(self, line: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """The line in pieces of one face each."""
        line = _visible(line)
        wide_first = any(map(ideographic, line))
        run, current = [], None
        for letter in _letters(line):
            whole = self._face(letter, wide_first)
            for character in letter:
                if character in JOINERS and not self._covered(character):
                    continue
                if whole is not BOXES:
                    face = whole
                elif current is None or not (clings(character) and current.covers(character)):
                    face = self._face(character, wide_first)
                if current is not None and face is not current and run:
                    yield "".join(run), current.at(size)
                    run = []
                run.append(character)
                current = face
        if current is not None and run:
            yield "".join(run), current.at(size)

    def _covered(self, character: str) -> bool:
        return self._face(character, False) is not BOXES

    def _face(self, letter: str, wide_first: bool) -> Face:
        """The face that draws a letter with all its marks; `BOXES` if there is none."""
        face = self._found.get((letter, wide_first))
        if face is None:
            ambiguous = unicodedata.east_asian_width(letter[0]) == "A" and not letter[0].isalpha()
            order = self._wide_first if wide_first and ambiguous else self.faces
            needed = letter if len(letter) == 1 else [c for c in letter if c not in JOINERS]
            face = next((face for face in order if all(map(face.covers, needed))), BOXES)
            self._found[letter, wide_first] = face
        return face

    def measure(self, line: str, size: int) -> float:
        """Width of a line in pixels."""
        return sum(font.getlength(run) for run, font in self.runs(line, size))

    def ink(self, line: str, size: int) -> tuple[int, int]:
        """How far a line's ink reaches above and below the baseline, in pixels."""
        boxes = [font.getbbox(run, anchor="ls") for run, font in self.runs(line, size)]
        return max([0, *(ceil(-box[1]) for box in boxes)]), max([0, *(ceil(box[3]) for box in boxes)])

    def fit(self, text: str, width: int, height: int, largest: int) -> Lettering:
        """Set `text` in a room of width x height px, at most `largest` px high and as large as fits.

        The text may fill a third of the room's height, and more the smaller it has to be set, up to one half at
        `LEGIBLE`. Where that is not enough it is set at `LEGIBLE`, takes what it needs, and `fits` is False.
        """
        text = clean(text)
        best = self._set(text, width, height, LEGIBLE, largest)
        assert best is not None  # at LEGIBLE all lines are set
        if not best.fits:
            return best
        low, high = LEGIBLE + 1, largest
        while low <= high:
            size = (low + high) // 2
            attempt = self._set(text, width, height, size, largest)
            if attempt is not None and attempt.fits:
                best, low = attempt, size + 1
            else:
                high = size - 1
        return self._balanced(best, text)

    def _set(self, text: str, width: int, height: int, size: int, largest: int) -> Lettering | None:
        """`text` at one size, None where it plainly takes too much; at `LEGIBLE` a word that is too long is cut."""
        small = 1 if size == LEGIBLE else (largest - size) / (largest - LEGIBLE)
        room = height * (SHARE_LARGE + (SHARE_SMALL - SHARE_LARGE) * small)
        most_lines = None if size == LEGIBLE else int(room / size) + 2  # a line is at least as high as its letters
        lines, whole = wrap(text, width, lambda line: self.measure(line, size), most_lines)
        if len(lines) == most_lines:
            return None
        lettering = self._block(lines, size)
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
            attempt, whole = wrap(text, middle, measure, len(best) + 1)
            if whole and len(attempt) == len(best):
                best, wide = attempt, middle
            else:
                narrow = middle + 1
        return self._block(best, lettering.size)

    def _block(self, lines: Sequence[str], size: int) -> Lettering:
        inks = [self.ink(line, size) for line in lines]
        # Even a line of low letters keeps the height of a capital, so that neighboring captions look alike.
        ascent = max(round(0.7 * size), *(above for above, _ in inks))
        descent = max(round(0.2 * size), *(below for _, below in inks))
        pitch = max(round(1.18 * size), ascent + descent + 1)
        width = max(round(self.measure(line, size)) for line in lines)
        height = ascent + pitch * (len(lines) - 1) + descent
        return Lettering(tuple(lines), size, width, height, ascent, pitch, fits=True)


def clean(text: str) -> str:
    """`text` with composed accents and syllables, single spaces, and French marks and dashes bound to their word."""
    text = STEERING.sub("", unicodedata.normalize("NFC", text))
    text = re.sub(r"[ \t\r\n\v\f\x1c-\x1f\x85]+", " ", text).strip(SPACES + UNBREAKABLE + JOINERS)
    text = re.sub(r"((?:^|\s)[«‹]) ", "\\1\u00a0", text)
    return re.sub(r" (?=[»›!?:;](?!\w)|[–—] )", "\u00a0", text)


def _visible(text: str) -> str:
    """`text` as it is drawn: every kind of space the one that all fonts have."""
    return re.sub("[\u00a0\u2000-\u200a\u202f\u205f]", " ", text).replace("\u200b", "")


def _letters(line: str) -> Iterator[str]:
    """Every character with the marks that belong to it."""
    if line.isascii():
        yield from line
        return
    start = 0
    for i in range(1, len(line)):
        if not clings(line[i]):
            yield line[start:i]
            start = i
    if line:
        yield line[start:]
