"""The letters of a comic page: bundled fonts, fonts installed on this machine, and which characters a font can draw."""

import os
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import ImageFont

BUNDLED = "Comic Neue (bundled)"
FOLDER = Path(__file__).resolve().parents[2] / "fonts"
LATIN, EUROPE = "ComicNeue-Bold.otf", "StoryReelSans-Bold.ttf"
CJK, CJK_JAPAN = "StoryReelSansCJK-Bold.otf", "StoryReelSansCJKJapan-Bold.otf"

KANA = range(0x3041, 0x3100)
PROBE = 20  # px at which a face is tried


class Face:
    """One face of a font file; `wide` if its marks are drawn for Chinese characters. Files are opened when first asked.

    only: the code points that it is used for, if not all that it has.
    Raises ValueError, then, where the file is not a font that can be drawn at any size.
    """

    def __init__(self, path: Path, index: int = 0, wide: bool = False, only: frozenset[int] | None = None):
        self.path = path
        self.index = index
        self.wide = wide
        self._sizes: dict[int, ImageFont.FreeTypeFont] = {}
        if only is not None:
            self.characters = only

    @cached_property
    def characters(self) -> frozenset[int]:
        """The code points that the face has a glyph for."""
        try:
            with TTFont(self.path, fontNumber=self.index, lazy=True) as font:
                return frozenset(font.getBestCmap() or ())
        except Exception as problem:  # a broken file can end in almost any error inside the library
            raise ValueError(f"{self.path} cannot be read as a font ({problem}); choose another one.") from problem

    def covers(self, character: str) -> bool:
        return ord(character) in self.characters

    def draws(self, character: str) -> bool:
        """Whether a character that is seen has a shape here: layered colors leave an empty one, as in emoji fonts."""
        return self.covers(character) and self.at(PROBE).getmask(character).getbbox() is not None

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The face at `size` pixels an em."""
        if size not in self._sizes:
            try:
                self._sizes[size] = ImageFont.truetype(self.path, size, index=self.index)
            except (
                OSError,
                ValueError,
            ) as problem:  # bitmap fonts, such as those of color emoji, have a few fixed sizes
                raise ValueError(
                    f"{self.path} cannot be drawn {size} px high ({problem}); choose another font."
                ) from problem
        return self._sizes[size]

    @property
    def fault(self) -> str:
        """Why the face cannot be used, in one sentence, or ""."""
        try:
            self.at(PROBE)
            return "" if self.characters else f"{self.path} has no characters; choose another font."
        except ValueError as error:
            return str(error)


# Has no glyph for what it is asked to draw, and shows an outlined box for each.
BOXES = Face(FOLDER / EUROPE, only=frozenset())


def load(font: str, texts: Iterable[str] = ()) -> tuple[Face, ...]:
    """The faces behind a name of `names`, the first that has a character's glyph being the one that draws it.

    The bundled font is several, and all of a story's `texts` decide in which order: letters that Comic Neue lacks bring
    in another face for all letters, so that no word is written by two hands; kana bring in the Japanese form of
    characters that China draws otherwise. They stand behind an installed font, for what it lacks.
    Raises ValueError for a font that is not installed.
    """
    characters = set("".join(texts))
    letters = [Face(FOLDER / LATIN), Face(FOLDER / EUROPE)]
    if any(c.isalpha() and letters[1].covers(c) and not letters[0].covers(c) for c in characters):
        letters.reverse()
    japanese = any(ord(character) in KANA for character in characters)
    files = [CJK_JAPAN, CJK] if japanese else [CJK]
    bundled = (*letters, *(Face(FOLDER / name, wide=True) for name in files))
    if font == BUNDLED:
        return bundled
    known = installed()
    if font not in known:
        raise ValueError(f"The font {font!r} is not installed on this machine; choose another one, or {BUNDLED!r}.")
    path, index = known[font]
    return (Face(path, index), *bundled)


def fallback(characters: Iterable[str]) -> tuple[Face, ...]:
    """Installed faces that draw some of `characters`, as few as come first; what none draws is left out.

    Fonts are opened one after the other until all is found. One that cannot be read, or has no shapes to draw at any
    size, is passed over.
    """
    wanted = frozenset(characters)
    return tuple(Face(*found) for found in _search(wanted, tuple(installed().values()))) if wanted else ()


@lru_cache(maxsize=16)
def _search(wanted: frozenset[str], places: tuple[tuple[Path, int], ...]) -> list[tuple[Path, int, bool, frozenset]]:
    found = []
    for path, index in places:
        if not wanted:
            break
        face = Face(path, index)
        try:
            drawn = frozenset(filter(face.draws, wanted))
        except ValueError:
            continue
        if drawn:
            found.append((path, index, False, frozenset(map(ord, drawn))))
            wanted -= drawn
    return found


def names() -> list[str]:
    """What a user can choose from: the bundled font, then every installed one by its file's name."""
    return [BUNDLED, *sorted(installed(), key=str.casefold)]


def installed(folders: Iterable[Path] | None = None) -> dict[str, tuple[Path, int]]:
    """Name -> (file, face number) of every TrueType and OpenType font in the system's folders, or in `folders`.

    A collection's faces after the first are named "File.ttc (face 2)" and so on. Of two files of one name the first
    folder's wins, as it does for the system.
    """
    found: dict[str, tuple[Path, int]] = {}
    for folder in font_folders() if folders is None else folders:
        for parent, _, files in sorted(os.walk(folder)):
            for name in sorted(files):
                path = Path(parent, name)
                suffix = path.suffix.lower()
                if suffix in (".ttf", ".otf"):
                    found.setdefault(name, (path, 0))
                elif suffix in (".ttc", ".otc"):
                    for index in range(_face_count(path)):
                        found.setdefault(name if index == 0 else f"{name} (face {index + 1})", (path, index))
    return found


def _face_count(path: Path) -> int:
    """From a collection's header: the tag "ttcf", a version, the number of faces."""
    try:
        with path.open("rb") as file:
            header = file.read(12)
    except OSError:  # a link to nowhere, or a file of another user
        return 0
    return int.from_bytes(header[8:12], "big") if header[:4] == b"ttcf" else 0


def font_folders(
    platform: str = sys.platform, environment: Mapping[str, str] = os.environ, home: Path | None = None
) -> list[Path]:
    """Where a system keeps its fonts, the user's own folder first."""
    home = home or Path.home()
    if platform == "win32":
        local = environment.get("LOCALAPPDATA", home / "AppData" / "Local")
        windows = environment.get("WINDIR", "C:\\Windows")
        return [Path(local, "Microsoft", "Windows", "Fonts"), Path(windows, "Fonts")]
    if platform == "darwin":
        return [home / "Library" / "Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    own = environment.get("XDG_DATA_HOME") or home / ".local" / "share"
    shared = environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [home / ".fonts", Path(own, "fonts"), *(Path(folder, "fonts") for folder in shared.split(":"))]
