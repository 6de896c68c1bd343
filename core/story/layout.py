"""Where every image of a story goes on its comic pages: geometry in whole pixels, no drawing.

"four panel" and "classic" are the page builders of StoryDiffusion's app (arXiv 2405.01434, gradio_utils): every image
gets a white border, columns are as wide as a bordered image, rows are scaled to the narrowest row. There a missing
image had no border and shrank its page; here it leaves a place of full size.

"automatic" is for any number of frames. Rows are chosen like the lines of a paragraph (Knuth and Plass, "Breaking
Paragraphs into Lines", 1981): the cheapest path through all ways to divide a page, where a row costs more the farther
its panels are from the size that fills a page, and a seeded jitter makes stories differ.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LAYOUTS = ("automatic", "four panel", "classic")

PAGE_RATIO = 1.4  # height to width that an automatic page aims at, about that of a printed one
MOST_PANELS = 8  # on a page whose number of panels the layout may choose
LARGEST, SMALLEST = 1 / 2, 1 / 14  # bounds of the panel area aimed at, in squares of the page's width
ROWS = ((1,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (1, 1, 1, 1))  # panels in each column; a column of 2 is a stack


@dataclass(frozen=True)
class Panel:
    """The place of image number `frame`: its upper left corner and its size on the page, in pixels."""

    frame: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Column:
    """Images above each other: position and size in the unscaled row, borders included; None is an empty place."""

    x: int
    width: int
    height: int
    frames: tuple[int | None, ...]


@dataclass(frozen=True)
class Row:
    """Columns side by side, `width` x `height` px, which the page shows `scaled_height` px high from `y` down."""

    y: int
    scaled_height: int
    width: int
    height: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Page:
    """A page's size and panels, in story order. `rows` is how a published layout came to them."""

    width: int
    height: int
    panels: tuple[Panel, ...]
    rows: tuple[Row, ...] = ()


def pages(
    layout: str,
    count: int,
    size: tuple[int, int],
    border: int = 10,
    seed: int = 0,
    panels_per_page: int = 0,
    page_width: int = 1536,
) -> list[Page]:
    """Pages for `count` images of `size` (width, height), by one of `LAYOUTS`.

    border: white around each image, in pixels. panels_per_page (0: up to `MOST_PANELS`) and page_width are of use to
    "automatic" alone: the published layouts make pages of 2 x 2 or one page, as wide as the images ask for.
    Raises ValueError for an unknown layout and for a page too narrow for its borders.
    """
    if layout == "four panel":
        return four_panel(count, size, border)
    if layout == "classic":
        return [classic(count, size, border, seed)]
    if layout == "automatic":
        return automatic(count, size, border, seed, panels_per_page, page_width)
    raise ValueError(f"layout is {layout!r}, expected one of {', '.join(LAYOUTS)}.")


def check_width(page_width: int, border: int = 10) -> None:
    """Raise ValueError for an automatic page too narrow for its borders."""
    if page_width <= 4 * border:
        raise ValueError(f"page_width is {page_width}, which leaves no room for panels between borders of {border} px.")


def four_panel(count: int, size: tuple[int, int], border: int = 10) -> list[Page]:
    """Pages of two by two equal panels."""
    places = _places(count)
    groups = [[(next(places),) for _ in range(4)] for _ in range(0, count, 4)]
    return [_assemble([group[:2], group[2:]], size, border) for group in groups]


def classic(count: int, size: tuple[int, int], border: int = 10, seed: int = 0) -> Page:
    """One page with rows of 4 images, or of 4 and 6 by turns above 8; one or two columns of a row are stacks of two.

    Fewer than 4 that are left over make a row of 4.
    The order of the columns is what Python's `random` gives for `seed`, one shuffle a row.
    """
    rng = random.Random(seed)
    places = _places(count)
    rows, placed = [], 0
    while placed < count:
        stacks = 2 if count > 8 and len(rows) % 2 and count - placed >= 4 else 1
        columns = [1, 1] + [2] * stacks
        rng.shuffle(columns)
        rows.append([tuple(next(places) for _ in range(n)) for n in columns])
        placed += sum(columns)
    return _assemble(rows, size, border)


def _places(count: int) -> Iterator[int | None]:
    """Image numbers, then empty places without end."""
    yield from range(count)
    while True:
        yield None


def _assemble(rows: Sequence[Sequence[tuple[int | None, ...]]], size: tuple[int, int], border: int) -> Page:
    """The page of rows of columns of image numbers, by the published arithmetic."""
    full_width, full_height = size[0] + 2 * border, size[1] + 2 * border
    widths = [sum(full_width // len(frames) for frames in row) for row in rows]
    page_width = min(widths)

    placed, panels, y = [], [], 0
    for row, row_width in zip(rows, widths, strict=True):
        scaled_height = page_width * full_height // row_width
        across, down = page_width / row_width, scaled_height / full_height
        columns, x = [], 0
        for frames in row:
            n = len(frames)
            column = Column(x, full_width // n, full_height, tuple(frames))
            columns.append(column)
            for k, frame in enumerate(frames):
                if frame is None:
                    continue
                inset_x, inset_y = border * column.width / full_width, border / n
                left, right = x + inset_x, x + column.width - inset_x
                top, bottom = k * full_height / n + inset_y, (k + 1) * full_height / n - inset_y
                panels.append(_panel(frame, left * across, y + top * down, right * across, y + bottom * down))
            x += column.width
        placed.append(Row(y, scaled_height, row_width, full_height, tuple(columns)))
        y += scaled_height
    return Page(page_width, y, tuple(panels), tuple(placed))


def automatic(
    count: int,
    size: tuple[int, int],
    border: int = 10,
    seed: int = 0,
    panels_per_page: int = 0,
    page_width: int = 1536,
) -> list[Page]:
    """Pages of rows that each fill the page's width; no image is cropped or stretched.

    Panels are 2 x border apart and as far from the edge. Images are divided among the pages as evenly as can be.
    """
    check_width(page_width, border)
    rng = random.Random(seed)
    page_count = math.ceil(count / (panels_per_page or MOST_PANELS))
    result, first = [], 0
    for number in range(page_count):
        n = count * (number + 1) // page_count - first
        result.append(_automatic_page(range(first, first + n), size[0] / size[1], page_width, 2 * border, rng))
        first += n
    return result


def _automatic_page(frames: range, aspect: float, page_width: int, gutter: int, rng: random.Random) -> Page:
    panels, y, frame = [], gutter, frames.start
    for row in _divide(len(frames), aspect, page_width, gutter, rng):
        height = _row_height(row, aspect, page_width, gutter)
        x = gutter
        for n in row:
            panel_height = (height - (n - 1) * gutter) / n
            width = panel_height * aspect
            for k in range(n):
                top = y + k * (panel_height + gutter)
                panels.append(_panel(frame, x, top, x + width, top + panel_height))
                frame += 1
            x += width + gutter
        y = panels[-1].y + panels[-1].height + gutter
    return Page(page_width, y, tuple(panels))


def _row_height(row: tuple[int, ...], aspect: float, page_width: int, gutter: int) -> float:
    """The height at which a row is just as wide as the page.

    A stack of n panels is aspect * (height - (n - 1) * gutter) / n wide; the widths and gutters sum to the page's.
    """
    room = page_width - (len(row) + 1) * gutter
    return (room / aspect + gutter * sum((n - 1) / n for n in row)) / sum(1 / n for n in row)


def _divide(count: int, aspect: float, page_width: int, gutter: int, rng: random.Random) -> list[tuple[int, ...]]:
    """The rows of a page of `count` panels: the cheapest path over (panels placed, last row)."""
    area = min(max(PAGE_RATIO / count, SMALLEST), LARGEST) * page_width**2
    paths = [{} for _ in range(count + 1)]  # panels placed -> last row -> (cost, rows)
    paths[0][()] = (0.0, [])
    for placed in range(count):
        for row in ROWS:
            n = sum(row)
            height = _row_height(row, aspect, page_width, gutter)
            smallest = (height - (max(row) - 1) * gutter) / max(row)
            jitter = rng.random()  # drawn for every place and row, so that one choice does not shift the others
            if placed + n > count or (smallest * min(1, aspect) < 1 and row != (1,)):
                continue
            mean = aspect * sum(((height - (k - 1) * gutter) / k) ** 2 * k for k in row) / n
            cost = n * math.log(mean / area) ** 2 + 0.6 * jitter
            # A single image below a full page looks left over, and one much taller than the rest does anywhere.
            cost += 0.8 * (n == 1 and placed + n == count > 2) + 4 * max(0, height / page_width - 0.8)
            for last, (so_far, rows) in paths[placed].items():
                total = so_far + cost + 0.7 * (row == last)
                if row not in paths[placed + n] or total < paths[placed + n][row][0]:
                    paths[placed + n][row] = (total, [*rows, row])
    return min(paths[count].values())[1]


def _panel(frame: int, left: float, top: float, right: float, bottom: float) -> Panel:
    """Edges are rounded, not sizes, so that neighbors stay aligned."""
    x, y = round(left), round(top)
    return Panel(frame, x, y, max(1, round(right) - x), max(1, round(bottom) - y))
