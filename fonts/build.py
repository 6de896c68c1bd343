"""Makes the bundled fonts in fonts/ from three Debian packages; every byte of them can be made again.

    apt-get install fonts-comic-neue=2.51-4 fonts-noto-core=20201225-1 \
        fonts-noto-cjk=1:20220127+repack1-1
    pip install fonttools==4.68.0
    python fonts/build.py            # writes fonts/
    python fonts/build.py --check    # writes nothing, fails unless fonts/ holds the same bytes

Comic Neue is copied as it is. Noto Sans keeps its Latin, Greek and Cyrillic letters. Of Noto Sans CJK, 45 000
characters in ten forms, two faces remain. One holds what the national standards of China, Japan and Korea hold (and the
common half of Taiwan's), drawn as in China; the other those of Japan's characters that are drawn otherwise there.
"""

import argparse
import hashlib
import io
import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

FONTS = Path(__file__).resolve().parent
SHARE = Path("/usr/share/fonts/opentype")
LATIN = SHARE / "comic-neue" / "ComicNeue-Bold.otf"
EUROPE = SHARE.parent / "truetype" / "noto" / "NotoSans-Bold.ttf"
CJK = SHARE / "noto" / "NotoSansCJK-Bold.ttc"
JAPAN, CHINA = 0, 2  # faces of the collection

SOURCES = {
    LATIN: "0637fea8f858cd1d9a6e0ff786bed3d8cc2dc59b871a28e268a5a0106f052a92",
    EUROPE: "e83493c945848ecd4a9ad0f6d19164541a0d3e23a9c952304a00a46e00272ac5",
    CJK: "faa5f3656a78b2e2d450d27fe8382c778bc2b6bb5ea29c986664a6a435056ceb",
}

# Latin with the accents of Europe, Turkey and Vietnam, Greek with breathings, Cyrillic, punctuation, currency.
EUROPEAN = [(0x0020, 0x024F), (0x02B0, 0x036F), (0x0370, 0x052F), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x20A0, 0x20BF)]

# Blocks added to the national sets: Latin and its accents, general punctuation, currency, arrows, geometric and other
# signs, CJK punctuation and kana, compatibility letters, full-width and half-width forms.
BLOCKS = [
    (0x0020, 0x017F),
    (0x0300, 0x036F),
    (0x1EA0, 0x1EF9),
    (0x2000, 0x206F),
    (0x20A0, 0x20BF),
    (0x2190, 0x21FF),
    (0x25A0, 0x27BF),
    (0x3000, 0x30FF),
    (0x3130, 0x318F),
    (0x31F0, 0x31FF),
    (0xFE30, 0xFE4F),
    (0xFF00, 0xFFEF),
]


def double_byte(encoding: str, leads=range(0xA1, 0xFF)) -> set[int]:
    """Every character that a two-byte encoding holds, as code points."""
    found = set()
    for lead in leads:
        for trail in range(0x40, 0xFF):
            text = bytes([lead, trail]).decode(encoding, errors="ignore")
            if len(text) == 1:
                found.add(ord(text))
    return found


def codes_in(blocks: list[tuple[int, int]]) -> set[int]:
    return {code for first, last in blocks for code in range(first, last + 1)}


def east_asian() -> set[int]:
    """GB 2312 levels 1 and 2, JIS X 0208, KS X 1001, Big5 level 1, and `BLOCKS`."""
    big5_level_1 = double_byte("big5", leads=range(0xA4, 0xC7))
    return double_byte("gb2312") | double_byte("euc_jp") | double_byte("euc_kr") | big5_level_1 | codes_in(BLOCKS)


def cut(path: Path, codes: set[int], family: str, face: int = 0) -> bytes:
    """A face with `codes` alone, without hinting and layout tables, under a name of its own."""
    font = TTFont(path, fontNumber=face, recalcTimestamp=False)
    options = subset.Options()
    options.hinting = False
    options.layout_features = []
    options.drop_tables += ["BASE", "DSIG", "GDEF", "GPOS", "GSUB", "VORG", "vhea", "vmtx"]
    options.notdef_outline = True
    options.name_IDs = [0, 5, 7, 8, 9, 10, 11, 12, 13, 14]
    options.name_languages = [0x409]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)

    postscript = family.replace(" ", "") + "-Bold"
    names = {
        1: family,
        2: "Bold",
        3: f"{postscript};subset of NotoSansCJK-Bold 2.004",
        4: f"{family} Bold",
        6: postscript,
    }
    for number, text in names.items():
        font["name"].setName(text, number, 3, 1, 0x409)
    if "CFF " in font:
        cff = font["CFF "].cff
        cff.fontNames = [postscript]
        cff[0].FullName, cff[0].FamilyName = f"{family} Bold", family

    file = io.BytesIO()
    font.save(file)
    return file.getvalue()


def build() -> dict[str, bytes]:
    for path, expected in SOURCES.items():
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            sys.exit(f"{path} has SHA-256 {found}, expected {expected}: another version of the package is installed.")
    china, japan = (TTFont(CJK, fontNumber=face, lazy=True).getBestCmap() for face in (CHINA, JAPAN))
    japanese = {code for code in double_byte("euc_jp") if china.get(code) != japan.get(code)}
    return {
        LATIN.name: LATIN.read_bytes(),
        "StoryReelSans-Bold.ttf": cut(EUROPE, codes_in(EUROPEAN), "StoryReel Sans"),
        "StoryReelSansCJK-Bold.otf": cut(CJK, east_asian(), "StoryReel Sans CJK", face=CHINA),
        "StoryReelSansCJKJapan-Bold.otf": cut(CJK, japanese, "StoryReel Sans CJK Japan", face=JAPAN),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with fonts/ and write nothing")
    check = parser.parse_args().check
    for name, content in build().items():
        path = FONTS / name
        if check and path.read_bytes() != content:
            sys.exit(f"{path} is not what this script makes.")
        if not check:
            path.write_bytes(content)
        print(f"{name}  {len(content)} bytes  {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
