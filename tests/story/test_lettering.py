"""Captions: every word kept, lines broken where a reader of the language expects it, boxes that hold their ink."""

import codecs
import shutil
import unicodedata
from pathlib import Path

import pytest
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image, ImageDraw
from storyreel.core.story import fonts
from storyreel.core.story.lettering import LEGIBLE, Letterer, clean
from storyreel.core.story.wrapping import break_points, wrap

ENGLISH = "At the river the bridge is gone; only two wet ropes and a well-worn sign are left — but Alice has an idea."
JAPANESE = "川に着くと、橋はなくなっていた……残っていたのは「ロープ」二本と（誰にも）読めない看板だけだった！"
CHINESE = "到了河边，桥已经不见了——只剩下“两根湿绳子”和一块《看不懂》的牌子……鲍勃说：“走吧！”"
KOREAN = "강에 도착하니 다리는 사라지고 젖은 밧줄 두 개만 남아 있었다. “돌아가자!” 밥이 말했다."
MIXED = "Bob 和 Alice 在 2024 年的夏天，用 Wi-Fi（很慢）给 the treasure hunters 写信。"
TEXTS = [ENGLISH, JAPANESE, CHINESE, KOREAN, MIXED]
NAMES = ["english", "japanese", "chinese", "korean", "mixed"]
ROOT = Path(__file__).resolve().parents[2]


def letterer(*texts):
    return Letterer(fonts.load(fonts.BUNDLED, texts))


def by_letters(line):
    """A measure in which every letter is 1 wide and every Chinese character 2."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def squeezed(text):
    return "".join(text.split())


# Lines.


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_no_width_loses_a_letter(text):
    for width in range(1, 120):
        lines, whole = wrap(clean(text), width, by_letters)
        assert squeezed("".join(lines)) == squeezed(text)
        assert all(line and by_letters(line) <= max(width, 2) for line in lines)
        if whole:
            assert all(by_letters(line) <= width for line in lines)


@pytest.mark.parametrize("text", [JAPANESE, CHINESE, MIXED], ids=["japanese", "chinese", "mixed"])
def test_kinsoku_holds_at_every_width(text):
    for width in range(14, 100):
        lines, whole = wrap(clean(text), width, by_letters)
        if not whole:
            continue
        for line in lines:
            assert line[0] not in "、。，！：）」”》っ", f"{line!r} begins with a closing mark"
            assert line[-1] not in "（「“《", f"{line!r} ends with an opening mark"
        for before, after in zip(lines, lines[1:], strict=False):
            assert before[-1] + after[0] not in ("……", "——")


def pieces(text: str) -> list[str]:
    """`text` cut wherever a line may break; spaces stay at the end of the piece before them."""
    ends, _ = break_points(text)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def test_chinese_and_japanese_break_between_characters():
    lines, whole = wrap("一二三四五六七八", 6, by_letters)
    assert (lines, whole) == (["一二三", "四五六", "七八"], True)
    assert pieces("ちょっと") == ["ちょっ", "と"]
    assert pieces("カーテン。") == ["カー", "テ", "ン。"]


def test_words_of_other_scripts_stay_whole():
    words = {word for word in squeezed_words(ENGLISH)}
    for width in range(12, 100):
        lines, whole = wrap(ENGLISH, width, by_letters)
        assert whole
        assert {part for line in lines for part in squeezed_words(line)} <= words | {"well-", "worn"}
    assert pieces("밧줄 두 개만") == ["밧줄 ", "두 ", "개만"]
    assert pieces("用 Wi-Fi写信") == ["用 ", "Wi-", "Fi", "写", "信"]
    assert pieces("don't 3-4 (a) -5") == ["don't ", "3-4 ", "(a) ", "-5"]


def squeezed_words(line):
    return line.replace("\u00a0", " ").split()


def test_marks_stay_with_their_word():
    assert pieces(clean("« Bonjour ! » dit-il")) == ["«\u00a0Bonjour\u00a0!\u00a0» ", "dit-", "il"]
    assert pieces(clean("»Hallo« sagte sie")) == ["»Hallo« ", "sagte ", "sie"]
    assert pieces(clean("left — but")) == ["left\u00a0— ", "but"]


def test_a_word_too_long_for_a_line_is_cut_and_keeps_its_accents():
    lines, whole = wrap("ab" + "e\u0330" * 6, 3, by_letters)
    assert not whole
    assert "".join(lines) == "ab" + "e\u0330" * 6
    assert not any(unicodedata.combining(line[0]) for line in lines)


@pytest.mark.parametrize("text", ["word " * 8_000, "a" * 100_000, "字" * 100_000, "a" + "\u0301" * 70_000])
def test_what_is_measured_grows_with_the_text_alone(text):
    measured = 0

    def measure(line):
        nonlocal measured
        measured += len(line)
        return by_letters(line)

    lines, _ = wrap(text, 60, measure)
    assert squeezed("".join(lines)) == squeezed(text)
    assert measured < 12 * len(text)


# Fitting.


def ink_box(letters, lettering):
    """The bounds of a lettering's ink, relative to the upper left corner of its block."""
    room = 200
    sheet = Image.new("L", (lettering.width + 2 * room, lettering.height + 2 * room))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lettering.lines):
        x = room + (lettering.width - letters.measure(line, lettering.size)) / 2
        for run, font in letters.runs(line, lettering.size):
            pen.text((x, room + lettering.ascent + number * lettering.pitch), run, fill=255, font=font, anchor="ls")
            x += font.getlength(run)
    left, top, right, bottom = sheet.getbbox()
    return left - room, top - room, right - room, bottom - room


@pytest.mark.parametrize("text", [*TEXTS, "Ấy, Ňőļž gjpqy", "—"], ids=[*NAMES, "tall", "dash"])
@pytest.mark.parametrize("room", [(700, 500), (300, 220), (160, 300)], ids=str)
def test_the_ink_is_within_the_measured_block(text, room):
    letters = letterer(text)
    lettering = letters.fit(text, *room, 40)
    left, top, right, bottom = ink_box(letters, lettering)
    assert lettering.fits
    assert lettering.width <= room[0] and lettering.height <= room[1] / 2
    slack = max(2, lettering.size // 12)  # side bearings
    assert left >= -slack and right <= lettering.width + slack
    assert top >= 0 and bottom <= lettering.height
    assert squeezed("".join(lettering.lines)) == squeezed(clean(text))


def test_longer_captions_are_set_smaller_never_below_legible():
    letters = letterer(ENGLISH)
    sizes = [letters.fit(" ".join([ENGLISH] * n), 400, 300, 40).size for n in (1, 2, 3, 5, 8, 12)]
    assert letters.fit("Hm.", 400, 300, 40).size == 40
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == LEGIBLE


def test_a_caption_that_cannot_fit_is_flagged_and_keeps_its_words():
    lettering = letterer(ENGLISH).fit(" ".join([ENGLISH] * 30), 200, 100, 40)
    assert not lettering.fits
    assert lettering.size == LEGIBLE
    assert squeezed("".join(lettering.lines)) == squeezed(ENGLISH * 30)
    assert lettering.height > 50


def test_lines_are_balanced():
    letters = letterer(ENGLISH)
    text = "The news says that there is treasure in the old forest."
    for width in range(300, 700, 40):
        lettering = letters.fit(text, width, 400, 24)
        widths = [letters.measure(line, lettering.size) for line in lettering.lines]
        assert min(widths) > 0.5 * max(widths)


def test_a_whole_word_is_worth_smaller_letters():
    word = "Incomprehensibilities"
    lettering = letterer(word).fit(word, 150, 300, 40)
    assert lettering.lines == (word,)
    assert lettering.size < 40


# Glyphs.


def test_missing_glyphs_are_named_once():
    assert letterer().missing("a 🎈 b 🎈 𓀀") == ["🎈", "𓀀"]
    assert Letterer([fonts.Face(fonts.FOLDER / fonts.LATIN)]).missing("Bob 说：hi") == ["说", "："]


def test_invisible_marks_need_no_glyph():
    text = "e\u0301te\u0301\u00ad \u200bnon\u00a0stop\u202f!\ufeff \u200eab\u200dc ♥\ufe0f"
    assert letterer(text).missing(text) == []
    drawn = "".join(run for run, _ in letterer(text).runs(clean(text), 20))
    assert squeezed(drawn.replace("\u200d", "")) == "éténonstop!abc♥"


def faces_of(text, *story):
    letters = letterer(text, *story)
    return [(run, Path(font.path).name) for run, font in letters.runs(clean(text), 20)]


def test_each_run_comes_from_the_face_that_has_it():
    assert faces_of("Bob 说 hi") == [("Bob ", fonts.LATIN), ("说", fonts.CJK), (" hi", fonts.LATIN)]
    assert faces_of("“Pack a rope…”") == [("“Pack a rope…”", fonts.LATIN)]
    assert faces_of("“带绳子……”") == [("“带绳子……”", fonts.CJK)]
    assert faces_of("Kraków 说") == [("Kraków ", fonts.LATIN), ("说", fonts.CJK)]


def test_one_hand_writes_a_whole_story():
    """A letter that Comic Neue lacks, anywhere in the story, brings in the wider face for all of it."""
    for text in ("değil", "Київ", "Αθήνα", "Việt Nam", "lietuvių"):
        assert faces_of("Hello!", text) == [("Hello!", fonts.EUROPE)]
        assert faces_of(text) == [(text, fonts.EUROPE)]
    assert faces_of("Hello!", "Łódź, Škoda, ça, süß") == [("Hello!", fonts.LATIN)]


def test_kana_bring_in_the_japanese_form_of_a_character():
    assert faces_of("骨") == [("骨", fonts.CJK)]
    assert faces_of("骨", "ほね") == [("骨", fonts.CJK_JAPAN)]


def decoded(encoding, leads, trails=range(0xA1, 0xFF)):
    decode = codecs.getdecoder(encoding)
    texts = (decode(bytes([lead, trail]), "ignore")[0] for lead in leads for trail in trails)
    return {text for text in texts if len(text) == 1}


@pytest.mark.parametrize(
    ("encoding", "leads", "least"),
    [("gb2312", range(0xB0, 0xF8), 6763), ("euc_jp", range(0xA1, 0xF5), 6800), ("euc_kr", range(0xB0, 0xC9), 2350)],
)
def test_the_bundled_fonts_write_the_national_character_sets(encoding, leads, least):
    characters = decoded(encoding, leads)
    assert len(characters) >= least
    assert set(letterer().missing("".join(sorted(characters)))) <= {"≒"}  # which Noto Sans CJK does not have either


def test_the_bundled_fonts_are_small_and_carry_their_licenses():
    files = [path for path in fonts.FOLDER.iterdir() if path.suffix in (".otf", ".ttf")]
    assert {path.name for path in files} == {fonts.LATIN, fonts.EUROPE, fonts.CJK, fonts.CJK_JAPAN}
    assert sum(path.stat().st_size for path in files) < 6_000_000
    readme = (fonts.FOLDER / "README.md").read_text(encoding="utf-8")
    licenses = {path.name: path.read_text(encoding="utf-8") for path in fonts.FOLDER.glob("OFL-*.txt")}
    for path in files:
        assert path.name in readme
        assert any(path.name in text and "SIL OPEN FONT LICENSE Version 1.1" in text for text in licenses.values())
        with TTFont(path, lazy=True) as font:
            assert "SIL Open Font License" in font["name"].getDebugName(13)
            assert path.name == fonts.LATIN or "Noto" not in font["name"].getDebugName(4)


# Installed fonts.


def test_every_system_has_its_font_folders():
    home = Path("/home/bob")
    linux = fonts.font_folders("linux", {"XDG_DATA_DIRS": "/a/share:/b/share"}, home)
    assert linux == [home / ".fonts", home / ".local/share/fonts", Path("/a/share/fonts"), Path("/b/share/fonts")]
    assert Path("/usr/share/fonts") in fonts.font_folders("linux", {}, home)
    assert home / "data/fonts" in fonts.font_folders("linux", {"XDG_DATA_HOME": str(home / "data")}, home)
    mac = fonts.font_folders("darwin", {}, home)
    assert mac == [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    windows = fonts.font_folders("win32", {"WINDIR": "D:\\Win", "LOCALAPPDATA": "D:\\Bob"}, home)
    assert windows == [Path("D:\\Bob", "Microsoft", "Windows", "Fonts"), Path("D:\\Win", "Fonts")]


def test_fonts_are_listed_from_all_folders(tmp_path):
    own, shared = tmp_path / "own", tmp_path / "shared"
    (shared / "deep" / "er").mkdir(parents=True)
    own.mkdir()
    shutil.copy(fonts.FOLDER / fonts.LATIN, own / "Mine.otf")
    shutil.copy(fonts.FOLDER / fonts.EUROPE, shared / "deep" / "er" / "Theirs.TTF")
    shutil.copy(fonts.FOLDER / fonts.EUROPE, shared / "Mine.otf")
    (shared / "notes.txt").write_text("no font")
    (shared / "gone.ttc").symlink_to(shared / "nowhere")
    collection = TTCollection()
    collection.fonts = [TTFont(fonts.FOLDER / fonts.LATIN), TTFont(fonts.FOLDER / fonts.EUROPE)]
    collection.save(shared / "Both.ttc")

    faces = fonts.installed([own, shared, tmp_path / "missing"])
    assert set(faces) == {"Mine.otf", "Theirs.TTF", "Both.ttc", "Both.ttc (face 2)"}
    assert faces["Mine.otf"] == (own / "Mine.otf", 0)
    second = fonts.Face(*faces["Both.ttc (face 2)"])
    assert second.covers("ж") and not fonts.Face(*faces["Both.ttc"]).covers("ж")
    assert second.at(20).getlength("ж") > 0


def test_a_file_that_is_no_font_is_named(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font at all")
    with pytest.raises(ValueError, match=r"broken\.ttf cannot be read as a font"):
        fonts.Face(broken).covers("a")
    with pytest.raises(ValueError, match=r"broken\.ttf cannot be drawn 20 px high"):
        fonts.Face(broken).at(20)


def test_a_font_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match="'Nowhere.ttf' is not installed on this machine"):
        fonts.load("Nowhere.ttf")


def test_the_bundled_font_comes_first_in_the_choice():
    assert fonts.names()[0] == fonts.BUNDLED
    assert len(fonts.names()) == len(fonts.installed()) + 1
