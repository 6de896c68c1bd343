"""The geometry of comic pages: nothing lost, nothing covered, nothing distorted, whatever the story's length."""

import itertools

import pytest
from storyreel.core.story import layout

SIZES = [(1024, 1024), (1216, 832), (832, 1216), (1536, 640), (640, 1536), (101, 75)]
EDGE = 1  # px by which rounding may move an edge


def every_page(count, size, **options):
    return layout.pages("automatic", count, size, **options)


def assert_sound(pages, count, size, border):
    assert [panel.frame for page in pages for panel in page.panels] == list(range(count))
    for page in pages:
        for panel in page.panels:
            assert panel.x >= border - EDGE and panel.x + panel.width <= page.width - border + EDGE
            assert panel.y >= border - EDGE and panel.y + panel.height <= page.height - border + EDGE
        for one, other in itertools.combinations(page.panels, 2):
            apart_x = max(one.x, other.x) - min(one.x + one.width, other.x + other.width)
            apart_y = max(one.y, other.y) - min(one.y + one.height, other.y + other.height)
            assert max(apart_x, apart_y) >= 2 * border - 2 * EDGE, f"{one} touches {other}"
        for panel in page.panels:
            assert abs(panel.width - panel.height * size[0] / size[1]) <= 2 * EDGE * max(1, size[0] / size[1])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_number_of_images_fills_automatic_pages(size):
    for count in (*range(1, 14), 20, 33, 47):
        for seed, border, width in ((0, 10, 1536), (1, 0, 700), (2, 25, 2048)):
            pages = every_page(count, size, seed=seed, border=border, page_width=width)
            assert_sound(pages, count, size, border)
            assert all(page.width == width for page in pages)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_row_reaches_both_edges(size):
    """No image is left over in a row that it does not fill."""
    for count, seed in itertools.product(range(1, 17), range(4)):
        for page in every_page(count, size, seed=seed, panels_per_page=20):
            for row in {panel.y + panel.height // 4 for panel in page.panels}:
                cut = [panel for panel in page.panels if panel.y <= row < panel.y + panel.height]
                assert min(panel.x for panel in cut) <= 20 + EDGE
                assert max(panel.x + panel.width for panel in cut) >= page.width - 20 - EDGE


def test_square_and_tall_images_never_end_on_a_giant():
    for size, count, seed in itertools.product([(1024, 1024), (832, 1216)], range(2, 20), range(10)):
        (page,) = every_page(count, size, seed=seed, panels_per_page=20)
        assert page.panels[-1].width < 0.75 * page.width
        assert max(panel.height for panel in page.panels) < page.width


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 30])
def test_panels_are_shared_out_evenly(limit):
    for count in range(1, 31):
        sizes = [len(page.panels) for page in every_page(count, (1024, 1024), panels_per_page=limit)]
        assert max(sizes) <= limit
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == -(-count // limit)


def test_a_page_chooses_its_number_of_panels():
    sizes = [len(page.panels) for page in every_page(17, (1216, 832))]
    assert sum(sizes) == 17
    assert max(sizes) <= layout.MOST_PANELS


def test_the_seed_decides_and_rows_vary():
    def arrangement(seed):
        return every_page(12, (1216, 832), seed=seed, panels_per_page=12)

    assert arrangement(3) == arrangement(3)
    assert len({tuple(arrangement(seed)) for seed in range(12)}) >= 3
    for seed in range(12):
        assert len({panel.width for panel in arrangement(seed)[0].panels}) >= 2


@pytest.mark.parametrize("name", ["four panel", "classic"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_published_layouts_lose_nothing_either(name, size):
    for count in range(1, 22):
        pages = layout.pages(name, count, size, border=0, seed=count)
        assert_sound(pages, count, size, border=0)


def test_full_pages_of_four_show_pictures_at_their_own_size():
    for page in layout.pages("four panel", 7, (96, 64)):
        assert (page.width, page.height) == (232, 168)
        assert {(panel.width, panel.height) for panel in page.panels} == {(96, 64)}


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="layout is 'manga', expected one of automatic, four panel, classic"):
        layout.pages("manga", 3, (64, 64))
    with pytest.raises(ValueError, match="page_width is 256, which leaves no room .* 64 px"):
        layout.pages("automatic", 3, (64, 64), border=64, page_width=256)
