"""Comic pages as images: pixels kept, every caption in its panel, one clear sentence where that is impossible."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from storyreel.core.story import fonts
from storyreel.core.story import page as drawing
from storyreel.core.story.layout import LAYOUTS, pages
from storyreel.core.story.lettering import Letterer
from storyreel.core.story.page import compose as compose_with_remarks

CAPTIONS = [
    "The news says there is treasure in the forest.",
    "「ロープを持ってきて！」とボブは叫んだ。",
    "到了河边，桥已经不见了——只剩下两根湿绳子。",
    "강에 도착하니 다리는 사라지고 없었다.",
    "Night falls… and nobody has brought a lamp.",
    "The chest is open!",
]


def compose(*args, **kwargs):
    """The pages alone."""
    return compose_with_remarks(*args, **kwargs)[0]


def noise_images(count, width=320, height=240):
    """Noise in the 256 values that an image file can hold."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator).float() / 255


def rectangle(panel):
    return slice(panel.y, panel.y + panel.height), slice(panel.x, panel.x + panel.width)


def changed(one, other):
    """The smallest (top, left, bottom, right) around the pixels in which two images differ, or None."""
    rows, columns = torch.nonzero((one != other).any(-1), as_tuple=True)
    if len(rows) == 0:
        return None
    return rows.min().item(), columns.min().item(), rows.max().item() + 1, columns.max().item() + 1


def test_pictures_at_their_own_size_keep_every_pixel():
    images = noise_images(4, 96, 64)
    (sheet,) = compose(images, [""] * 4, "four panel")
    (page,) = pages("four panel", 4, (96, 64))
    assert sheet.shape == (page.height, page.width, 3)
    for panel in page.panels:
        assert torch.equal(sheet[rectangle(panel)], images[panel.frame])
        sheet[panel.y - 3 : panel.y + panel.height + 3, panel.x - 3 : panel.x + panel.width + 3] = 1
    assert torch.equal(sheet, torch.ones_like(sheet)), "something is drawn in the white between the panels"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_caption_is_in_the_lower_part_of_its_own_panel(layout):
    """Drawn one at a time: stacked panels at half size have theirs, and none reaches beyond its panel's lower half."""
    images = noise_images(6, 640, 480)
    bare = compose(images, [""] * 6, layout, seed=5)
    places = pages(layout, 6, (640, 480), seed=5)
    for number, page in enumerate(places):
        for panel in page.panels:
            captions = ["" if frame != panel.frame else CAPTIONS[frame] for frame in range(6)]
            sheets = compose(images, captions, layout, seed=5)
            for other in range(len(places)):
                if other != number:
                    assert torch.equal(sheets[other], bare[other])
            top, left, bottom, right = changed(sheets[number], bare[number])
            assert panel.x < left and right < panel.x + panel.width
            assert panel.y + panel.height / 2 <= top and bottom < panel.y + panel.height
            written = sheets[number][top:bottom, left:right]
            assert 0.01 < (written.mean(-1) < 0.4).float().mean() < 0.5, "no dark letters on a light box"
            assert (written.mean(-1) > 0.85).float().mean() > 0.4


def test_all_captions_together_are_each_alone():
    images = noise_images(6, 640, 480)
    together = compose(images, CAPTIONS, "classic", seed=1)[0]
    bare = compose(images, [""] * 6, "classic", seed=1)[0]
    (page,) = pages("classic", 6, (640, 480), seed=1)
    for panel in page.panels:
        assert changed(together[rectangle(panel)], bare[rectangle(panel)]) is not None


def test_a_longer_caption_takes_a_larger_box_never_more_than_half():
    images = noise_images(1, 640, 480)
    (bare,) = compose(images, [""])
    heights = []
    for words in (5, 40, 120):
        top, _, bottom, _ = changed(compose(images, ["treasure " * words])[0], bare)
        heights.append(bottom - top)
    assert heights == sorted(set(heights))
    assert heights[-1] <= bare.shape[0] / 2


def test_the_caption_size_bounds_the_letters():
    images = noise_images(1, 640, 480)
    (bare,) = compose(images, [""])
    boxes = [changed(compose(images, ["Hm."], caption_size=size)[0], bare) for size in (12, 40, 80)]
    heights = [bottom - top for top, _, bottom, _ in boxes]
    assert heights == sorted(set(heights))


def test_a_caption_without_enough_room_is_a_remark_and_loses_nothing():
    images = noise_images(4, 96, 64)
    captions = ["", "", "", "a very long tale " * 40]
    (bare,) = compose(images, [""] * 4, "four panel")
    (sheet,), remarks = compose_with_remarks(images, captions, "four panel")
    assert [remark.split(" is ")[0] for remark in remarks] == ["The caption of frame 4"]
    assert sheet.shape[0] > bare.shape[0], "the page grows where a box needs it"
    assert (sheet[-1] == 1).all(), "the box ends within the page"


def test_shorter_pages_are_continued_in_white():
    images = noise_images(11)
    places = pages("automatic", 11, (320, 240), seed=2, panels_per_page=4)
    sheets = compose(images, [""] * 11, seed=2, panels_per_page=4)
    assert sheets.shape == (len(places), max(page.height for page in places), 1536, 3)
    assert len({page.height for page in places}) > 1
    for page, sheet in zip(places, sheets, strict=True):
        assert (sheet[page.height :] == 1).all()


def test_the_result_is_reproducible_and_seeded():
    images = noise_images(6)
    once = compose(images, CAPTIONS, seed=4)
    assert torch.equal(once, compose(images, CAPTIONS, seed=4))
    assert once.dtype == torch.float32 and 0 <= once.min() and once.max() <= 1
    assert any(once.shape != other.shape or not torch.equal(once, other) for other in map(seeded(images), range(4)))


def seeded(images):
    return lambda seed: compose(images, CAPTIONS, seed=seed)


def test_values_out_of_range_and_an_alpha_channel_do_no_harm():
    images = torch.full((1, 64, 96, 4), 1.5)
    images[..., 1] = -0.5
    (sheet,) = compose(images, [""])
    assert sheet[sheet.shape[0] // 2, sheet.shape[1] // 2].tolist() == [1, 0, 1]


def test_a_wrong_number_of_pictures_is_one_sentence():
    with pytest.raises(ValueError, match="there are 3 images for a story of 6 frames"):
        compose(noise_images(3), CAPTIONS)


# Letters that a font does not have.


def test_a_glyph_that_no_font_has_is_a_box_and_a_remark(installed):
    images = noise_images(3)
    captions = ["Hello", "snow \U0010fffd", "\u0378 and \U0010fffd"]
    sheets, (remark,) = compose_with_remarks(images, captions, "four panel")
    bare = compose(images, captions[:1] + [""] * 2, "four panel")
    assert remark == (
        "No installed font has a glyph for \U0010fffd (U+10FFFD) in frame 2, \u0378 (U+0378) in frame 3, "
        "\U0010fffd (U+10FFFD) in frame 3; a box is drawn for each."
    )
    (place,) = pages("four panel", 3, (320, 240))
    for panel in place.panels[1:]:
        assert changed(sheets[0][rectangle(panel)], bare[0][rectangle(panel)]) is not None


def test_the_box_of_a_missing_glyph_is_an_outline_as_high_as_a_letter():
    letterer = Letterer(fonts.load(fonts.BUNDLED))
    ((text, font),) = letterer.runs("\U0010fffd", 40)
    mask = font.getmask(text)
    width, height = mask.size
    dark = torch.tensor(list(mask)).reshape(height, width) > 128
    left, top, right, bottom = mask.getbbox()
    assert 12 < right - left < 40 and 24 < bottom - top < 36
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    for row, column in ((top + 1, middle_x), (bottom - 2, middle_x), (middle_y, left + 1), (middle_y, right - 2)):
        assert dark[row, column]
    assert not dark[middle_y, middle_x]


def test_many_missing_glyphs_make_a_short_remark(installed):
    _, (remark,) = compose_with_remarks(noise_images(1), ["".join(map(chr, range(0xE000, 0xE200)))])
    assert "U+E000" in remark and "and 5" in remark and len(remark) < 500


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A machine on which nothing but one font is installed, Comic Neue under another name: (its name, the folder)."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    shutil.copy(fonts.FOLDER / fonts.LATIN, folder / "Installed.otf")
    monkeypatch.setattr(fonts, "font_folders", lambda: [folder])
    return "Installed.otf", folder


def one_glyph(path, character, color=False):
    """A font with one square glyph; with color, one whose plain shape is empty, as in color fonts of layers."""
    pen = TTGlyphPen(None)
    if not color:
        for move, point in zip("mlll", [(100, 0), (100, 700), (700, 700), (700, 0)], strict=True):
            pen.moveTo(point) if move == "m" else pen.lineTo(point)
        pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_an_installed_font_is_offered_and_what_it_lacks_comes_from_the_bundled_one(installed):
    name, _ = installed
    assert name in fonts.names()
    images = noise_images(1)
    assert torch.equal(compose(images, ["Pack a rope!"], font=name), compose(images, ["Pack a rope!"]))
    sheets, remarks = compose_with_remarks(images, ["绳 rope, Привет!"], font=name)
    assert not remarks
    (bare,) = compose(images, [""])
    assert changed(sheets[0], bare) is not None


def test_what_the_bundled_fonts_lack_comes_from_any_installed_font_that_draws_it(installed):
    _, folder = installed
    (folder / "A broken.ttf").write_bytes(b"no font at all")
    (folder / "A nowhere.ttf").symlink_to(folder / "nowhere.ttf")
    one_glyph(folder / "B color.ttf", "😀", color=True)
    one_glyph(folder / "C.ttf", "😀")
    one_glyph(folder / "D.ttf", "🎈")
    images = noise_images(2)
    faces = [Path(face.path).name for face in fonts.fallback("😀🎈\U0010fffd")]
    assert faces == ["C.ttf", "D.ttf"]
    _, remarks = compose_with_remarks(images, ["Hello 😀", "🎈"])
    assert not remarks
    (folder / "C.ttf").unlink()
    _, (remark,) = compose_with_remarks(images, ["Hello 😀", "🎈"])
    assert "😀 (U+1F600 GRINNING FACE) in frame 1;" in remark


def test_no_installed_font_is_opened_while_the_bundled_ones_have_every_glyph(installed, monkeypatch):
    monkeypatch.setattr(fonts, "fallback", lambda characters: pytest.fail(f"looked for {characters}"))
    _, remarks = compose_with_remarks(noise_images(6), CAPTIONS)
    assert not remarks


def test_a_chosen_font_that_cannot_be_drawn_gives_way_to_the_bundled_one(installed):
    _, folder = installed
    (folder / "Broken.ttf").write_bytes(b"no font at all")
    images = noise_images(1)
    sheets, (remark,) = compose_with_remarks(images, ["Pack a rope!"], font="Broken.ttf")
    assert "Broken.ttf" in remark and "The bundled font is used" in remark
    assert torch.equal(sheets, compose(images, ["Pack a rope!"]))


# Sizes.


@pytest.mark.parametrize(
    ("count", "size", "options"),
    [
        (1, (4, 4096), dict(page_width=8192)),
        (64, (64, 64), dict(page_width=8192, panels_per_page=64)),
        (300, (64, 64), dict(page_width=8192)),
    ],
    ids=["a tall image", "many panels", "many pages"],
)
def test_pages_that_would_fill_the_memory_are_refused_in_a_sentence(count, size, options):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"pages? of 8192 x \d+ pixels are \d+ megapixels, and 250 at most are drawn"):
        compose(torch.zeros(1, size[1], size[0], 3).expand(count, -1, -1, -1), [""] * count, **options)
    assert time.process_time() - start < 5


def test_captions_that_make_a_page_too_high_are_refused_too(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_PIXELS", 64 * 64)
    with pytest.raises(ValueError, match="megapixels"):
        compose(noise_images(1, 40, 40), ["a long tale " * 100], "four panel", border=1)


CAPTIONS_THAT_ARE_HARD = {
    "a mark": "\u0301",
    "marks": "\u0301\u0316" * 900,
    "accents": "a" + "\u0301" * 1999,
    "letters": "a" * 2000,
    "characters": "字" * 2000,
    "words": "word " * 400,
    "missing": "\U0010fffd" * 2000,
    "joiners": "a\u200d" * 1000,
    "spaces": "a\u00a0" * 1000,
    "flags": "🏴\U000e0067\U000e0062\U000e007f" * 100,
    "controls": "a\x01\x7f\x85b",
    "half an emoji": "\ufffd",
    "right to left": "שלום \u202eabc",
}


@pytest.mark.parametrize("caption", CAPTIONS_THAT_ARE_HARD.values(), ids=CAPTIONS_THAT_ARE_HARD)
@pytest.mark.parametrize("size", [(320, 240), (1, 1), (8, 300)], ids=str)
def test_any_caption_is_lettered(caption, size):
    start = time.process_time()
    sheets, remarks = compose_with_remarks(noise_images(4, *size), ["", caption, "", ""], "four panel")
    assert sheets.isfinite().all()
    assert all(len(remark) < 1000 for remark in remarks)
    assert time.process_time() - start < 10


# The node on the real host.


def prompt(frames=3, **inputs):
    scenes = "\n".join(f"[Bob] reads page {number} #第{number}页: Bob reads." for number in range(frames))
    script = dict(characters="[Bob] a man", scenes=scenes, style="(No style)", negative="")
    page = {"images": ["2", 0], "story": ["1", 0], "layout": "automatic", "font": fonts.BUNDLED, "page_width": 512}
    return {
        "1": {"class_type": "StoryReelScript", "inputs": script},
        "2": {"class_type": "EmptyImage", "inputs": dict(width=96, height=64, batch_size=3, color=0x3366CC)},
        "3": {"class_type": "StoryReelComicPage", "inputs": page | inputs},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def test_a_story_becomes_a_page_in_the_host(host):
    run = host.run(prompt())
    (sheet,) = run.values["3"]
    assert sheet.shape[0] == 1 and sheet.shape[2:] == (512, 3)
    assert len(run.outputs["4"]["images"]) == 1
    assert (sheet.mean(-1) < 0.2).any(), "no letters and no lines"


def test_the_host_refuses_bad_values_by_name(host):
    for name, value in {"layout": "manga", "font": "Nowhere.ttf", "border": -1, "panels_per_page": 100}.items():
        with pytest.raises(ValueError, match=name):
            host.validate(prompt(**{name: value}))


def test_a_pages_messages_appear_on_the_node(host):
    story = prompt()
    story["1"]["inputs"]["scenes"] = "[Bob] waves #Hello \U0010fffd\n[Bob] sits #\n[Bob] runs #" + "tale " * 390
    run = host.run(story)
    glyph, length = run.outputs["3"]["text"]
    assert "U+10FFFD" in glyph and "frame 1" in glyph
    assert length.startswith("The caption of frame 3 is too long")
    assert run.values["3"][0].shape[0] == 1


def test_wrong_settings_are_refused_before_the_images_are_sampled(host):
    first = len(host.events)
    with pytest.raises(RuntimeError, match="page_width is 256, which leaves no room for panels"):
        host.run(prompt(page_width=256, border=64))
    ran = {data["node"] for name, data in host.events[first:] if name == "executing" and data["node"]}
    assert "1" in ran and "2" not in ran


def test_half_an_emoji_in_a_caption_is_a_page(host):
    story = prompt()
    story["1"]["inputs"]["scenes"] = "[Bob] waves #Hello \ud83d\n[Bob] sits #\n[Bob] runs #\ude00"
    run = host.run(story)
    assert run.values["3"][0].shape[0] == 1
    for text in run.outputs.get("3", {}).get("text", ()):
        text.encode("utf-8")


def test_too_few_images_are_refused(host):
    with pytest.raises(RuntimeError, match="there are 3 images for a story of 5 frames"):
        host.run(prompt(frames=5))


def test_the_defaults_need_no_reading(host):
    inputs = host.nodes["StoryReelComicPage"].INPUT_TYPES()
    required = inputs["required"] | inputs.get("optional", {})
    shown = [name for name, spec in required.items() if not (len(spec) > 1 and spec[1].get("advanced"))]
    assert shown == ["images", "story", "layout", "font"]
    assert required["font"][1]["options"][0] == required["font"][1]["default"] == fonts.BUNDLED
