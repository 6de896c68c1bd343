"""Comic pages as pictures: pixels kept, every caption in its panel, one clear sentence where it cannot be."""

import logging
import shutil

import pytest
import torch
from storyreel.core.story import fonts
from storyreel.core.story.layout import LAYOUTS, pages
from storyreel.core.story.page import compose

CAPTIONS = [
    "The news says there is treasure in the forest.",
    "「ロープを持ってきて！」とボブは叫んだ。",
    "到了河边，桥已经不见了——只剩下两根湿绳子。",
    "강에 도착하니 다리는 사라지고 없었다.",
    "Night falls… and nobody has brought a lamp.",
    "The chest is open!",
]


def pictures(count, width=320, height=240):
    """Noise in the 256 values that a picture file can hold."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator).float() / 255


def rectangle(panel):
    return slice(panel.y, panel.y + panel.height), slice(panel.x, panel.x + panel.width)


def changed(one, other):
    """The smallest (top, left, bottom, right) around the pixels in which two pictures differ, or None."""
    rows, columns = torch.nonzero((one != other).any(-1), as_tuple=True)
    if len(rows) == 0:
        return None
    return rows.min().item(), columns.min().item(), rows.max().item() + 1, columns.max().item() + 1


def test_pictures_at_their_own_size_keep_every_pixel():
    images = pictures(4, 96, 64)
    (sheet,) = compose(images, [""] * 4, "four panel")
    (page,) = pages("four panel", 4, (96, 64))
    assert sheet.shape == (page.height, page.width, 3)
    for panel in page.panels:
        assert torch.equal(sheet[rectangle(panel)], images[panel.frame])
        sheet[panel.y - 3 : panel.y + panel.height + 3, panel.x - 3 : panel.x + panel.width + 3] = 1
    assert torch.equal(sheet, torch.ones_like(sheet)), "something is drawn in the white between the panels"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_caption_stands_in_the_lower_part_of_its_own_panel(layout):
    """Drawn one at a time: stacked panels at half size have theirs, and none reaches beyond its panel's lower half."""
    images = pictures(6, 640, 480)
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
    images = pictures(6, 640, 480)
    together = compose(images, CAPTIONS, "classic", seed=1)[0]
    bare = compose(images, [""] * 6, "classic", seed=1)[0]
    (page,) = pages("classic", 6, (640, 480), seed=1)
    for panel in page.panels:
        assert changed(together[rectangle(panel)], bare[rectangle(panel)]) is not None


def test_a_longer_caption_takes_a_larger_box_never_more_than_half():
    images = pictures(1, 640, 480)
    (bare,) = compose(images, [""])
    heights = []
    for words in (5, 40, 120):
        top, _, bottom, _ = changed(compose(images, ["treasure " * words])[0], bare)
        heights.append(bottom - top)
    assert heights == sorted(set(heights))
    assert heights[-1] <= bare.shape[0] / 2


def test_the_caption_size_bounds_the_letters():
    images = pictures(1, 640, 480)
    (bare,) = compose(images, [""])
    boxes = [changed(compose(images, ["Hm."], caption_size=size)[0], bare) for size in (12, 40, 80)]
    heights = [bottom - top for top, _, bottom, _ in boxes]
    assert heights == sorted(set(heights))


def test_a_caption_without_enough_room_is_logged_and_loses_nothing(caplog):
    images = pictures(4, 96, 64)
    captions = ["", "", "", "a very long tale " * 40]
    (bare,) = compose(images, [""] * 4, "four panel")
    with caplog.at_level(logging.WARNING):
        (sheet,) = compose(images, captions, "four panel")
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == ["The caption of frame 4"]
    assert sheet.shape[0] > bare.shape[0], "the page grows where a box needs it"
    assert (sheet[-1] == 1).all(), "the box ends within the page"


def test_shorter_pages_are_continued_in_white():
    images = pictures(11)
    places = pages("automatic", 11, (320, 240), seed=2, panels_per_page=4)
    sheets = compose(images, [""] * 11, seed=2, panels_per_page=4)
    assert sheets.shape == (len(places), max(page.height for page in places), 1536, 3)
    assert len({page.height for page in places}) > 1
    for page, sheet in zip(places, sheets, strict=True):
        assert (sheet[page.height :] == 1).all()


def test_the_result_is_reproducible_and_seeded():
    images = pictures(6)
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
    with pytest.raises(ValueError, match="3 pictures arrived for a story of 6 frames"):
        compose(pictures(3), CAPTIONS)


def test_missing_glyphs_are_named_with_their_frames():
    captions = ["Hello", "snow 🎈", "", "𓀀 and 🎈"]
    with pytest.raises(ValueError) as refusal:
        compose(pictures(4), captions)
    assert str(refusal.value).endswith("frame 2: 🎈 (U+1F388); frame 4: 𓀀 (U+13000), 🎈 (U+1F388).")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A machine on which the user has installed one font, Comic Neue under another name."""
    folders = [".fonts", "Library/Fonts", "local/Microsoft/Windows/Fonts"]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(fonts.FOLDER / fonts.LATIN, tmp_path / folder / "Installed.otf")
    for name, value in {"HOME": tmp_path, "USERPROFILE": tmp_path, "LOCALAPPDATA": tmp_path / "local"}.items():
        monkeypatch.setenv(name, str(value))
    return "Installed.otf"


def test_an_installed_font_is_offered_and_used_alone(installed):
    assert installed in fonts.names()
    images = pictures(1)
    assert torch.equal(compose(images, ["Pack a rope!"], font=installed), compose(images, ["Pack a rope!"]))
    with pytest.raises(ValueError, match=r"'Installed.otf' has no glyph .* frame 1: 绳 \(U\+7EF3\)\."):
        compose(images, ["绳!"], font=installed)


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


def test_too_few_pictures_are_told_to_the_user(host):
    with pytest.raises(RuntimeError, match="3 pictures arrived for a story of 5 frames"):
        host.run(prompt(frames=5))


def test_the_defaults_need_no_reading(host):
    inputs = host.nodes["StoryReelComicPage"].INPUT_TYPES()
    required = inputs["required"] | inputs.get("optional", {})
    shown = [name for name, spec in required.items() if not (len(spec) > 1 and spec[1].get("advanced"))]
    assert shown == ["images", "story", "layout", "font"]
    assert required["font"][1]["options"][0] == required["font"][1]["default"] == fonts.BUNDLED
