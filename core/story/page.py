"""Draws comic pages: images in thin frames on white, and their captions in boxes at the lower edge."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from . import fonts
from .layout import Page, Panel, pages
from .lettering import LEGIBLE, Letterer, Lettering, clean
from .lines import code_point
from .problems import listed

PAPER, INK = (255, 255, 255), (24, 22, 26)
BOX = (*PAPER, 236)  # slightly transparent
SMOOTH = 4  # a box is drawn this many times larger, so that its round corners come out smooth
MOST_PIXELS = 250_000_000  # of all pages together, which are 3 GB as an IMAGE


def compose(
    images: torch.Tensor,
    captions: Sequence[str],
    layout: str = "automatic",
    font: str = fonts.BUNDLED,
    *,
    panels_per_page: int = 0,
    page_width: int = 1536,
    border: int = 10,
    caption_size: int = 0,
    seed: int = 0,
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Comic pages of images [frames, height, width, 3], values 0 to 1, with one caption each, which may be empty.

    layout, panels_per_page, page_width, border, seed: see `layout.pages`. font: one of `fonts.names`. caption_size: the
    largest letters in pixels an em, 0 for a size that suits the page.
    Returns [pages, height, width, 3] on the CPU, shorter pages continued in white, and remarks: sentences on captions
    that could not be lettered as they should be.
    Raises ValueError where images and captions differ in number, and for pages that take too much memory.
    """
    if len(images) != len(captions):
        raise ValueError(
            f"there are {len(images)} images for a story of {len(captions)} frames; a comic page needs one image for "
            "each frame, in the order of the story."
        )
    width, height = images.shape[2], images.shape[1]
    places = pages(layout, len(images), (width, height), border, seed, panels_per_page, page_width)
    _check_size(places, max(page.height for page in places))

    captions = [clean(caption) for caption in captions]
    letterer, remarks = _letterer(font, captions)
    drawn = []
    for page in places:
        sheet, more = _draw(page, images, captions, letterer, border, caption_size)
        drawn.append(sheet)
        remarks += more
    height = max(page.height for page in drawn)
    _check_size(places, height)
    result = torch.empty(len(drawn), height, drawn[0].width, 3)
    for row, sheet in zip(result, drawn, strict=True):
        row.copy_(torch.from_numpy(_lengthened(sheet, height)))
    return result.div_(255), tuple(remarks)


def _check_size(places: Sequence[Page], height: int) -> None:
    """Raise ValueError for pages that would fill the memory. They are all as high as the highest one."""
    pixels = len(places) * places[0].width * height
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"{len(places)} {'page' if len(places) == 1 else 'pages'} of {places[0].width} x {height} pixels are "
            f"{pixels / 1e6:.0f} megapixels, and {MOST_PIXELS / 1e6:.0f} at most are drawn; choose a smaller "
            "page_width, smaller images, or a shorter story."
        )


def _letterer(font: str, captions: Sequence[str]) -> tuple[Letterer, list[str]]:
    """What sets the captions, and remarks on a font that cannot be drawn and on characters that no font has."""
    faces, remarks = fonts.load(font, captions), []
    if font != fonts.BUNDLED and (fault := faces[0].fault):
        remarks.append(f"{fault} The bundled font is used instead.")
        faces = faces[1:]
    letterer = Letterer(faces)
    if missing := letterer.missing(" ".join(captions)):
        letterer = Letterer([*faces, *fonts.fallback(missing)])
    found = [
        f"{character} ({code_point(character).replace(' (', ' ').rstrip(')')}) in frame {number}"
        for number, caption in enumerate(captions, start=1)
        for character in letterer.missing(caption)
    ]
    if found:
        remarks.append(f"No installed font has a glyph for {listed(found, len(found))}; a box is drawn for each.")
    return letterer, remarks


def _to_pil(image: torch.Tensor) -> Image.Image:
    values = (image[..., :3].float().clamp(0, 1) * 255).round()
    return Image.fromarray(values.byte().cpu().numpy())


def _lengthened(page: Image.Image, height: int) -> np.ndarray:
    sheet = Image.new("RGB", (page.width, height), PAPER)
    sheet.paste(page)
    return np.array(sheet)


def _draw(
    page: Page,
    images: torch.Tensor,
    captions: Sequence[str],
    letterer: Letterer,
    border: int,
    caption_size: int,
) -> tuple[Image.Image, list[str]]:
    """A page, longer where a caption asks for it, and a remark on every caption that is too long for its panel."""
    remarks = []
    sheet = Image.new("RGB", (page.width, page.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    line = min(border // 3, max(1, round(page.width / 550)))
    for panel in page.panels:
        image = _to_pil(images[panel.frame])
        if image.size != (panel.width, panel.height):
            image = image.resize((panel.width, panel.height), Image.Resampling.LANCZOS)
        right, bottom = panel.x + panel.width - 1, panel.y + panel.height - 1
        pen.rectangle((panel.x - line, panel.y - line, right + line, bottom + line), fill=INK)
        sheet.paste(image, (panel.x, panel.y))
    # Captions come last: one that outgrows its panel must not lose its end to the next image.
    for panel in page.panels:
        if captions[panel.frame]:
            sheet, fits = _write(sheet, panel, captions[panel.frame], letterer, caption_size or page.width / 45)
            if not fits:
                remarks.append(
                    f"The caption of frame {panel.frame + 1} is too long for its panel of {panel.width} x "
                    f"{panel.height} pixels, even in letters of {LEGIBLE} pixels: its box covers more than half of the "
                    "image. Shorten it, or make the panel larger."
                )
    return sheet, remarks


def _write(
    sheet: Image.Image, panel: Panel, caption: str, letterer: Letterer, caption_size: float
) -> tuple[Image.Image, bool]:
    """The page with a panel's caption, longer where the caption asks for it, and whether the caption fits its panel."""
    largest = max(LEGIBLE, round(min(caption_size, panel.width / 14)))
    margin = round(0.5 * largest)
    pad_x, pad_y = _padding(largest)
    # The box, its padding included, is to stay within half of the panel; see `Letterer.fit` for what text may take.
    room = max(1, panel.width - 2 * margin - 2 * pad_x), max(1, panel.height - 4 * pad_y)
    lettering = letterer.fit(caption, *room, largest)
    pad_x, pad_y = _padding(lettering.size)
    width, height = lettering.width + 2 * pad_x, lettering.height + 2 * pad_y
    left = max(0, panel.x + (panel.width - width) // 2)
    top = panel.y + max(margin, panel.height - margin - height)
    if top + height + margin > sheet.height:
        sheet = Image.fromarray(_lengthened(sheet, top + height + margin))
    _box(sheet, left, top, width, height, lettering.size)
    _letters(sheet, left + pad_x, top + pad_y, lettering, letterer)
    return sheet, lettering.fits


def _padding(size: int) -> tuple[int, int]:
    """White between a box's edge and its text, at the sides and above, for letters of `size`."""
    return max(3, round(0.6 * size)), max(3, round(0.45 * size))


def _box(sheet: Image.Image, left: int, top: int, width: int, height: int, size: int):
    radius, line = round(0.4 * size * SMOOTH), max(SMOOTH, round(size / 16 * SMOOTH))
    # Only its edges are drawn large: between them all rows and columns are the same.
    edge = max(radius, line) // SMOOTH + 2
    across, down = _stretched(width, edge), _stretched(height, edge)
    shape = Image.new("RGBA", ((max(across) + 1) * SMOOTH, (max(down) + 1) * SMOOTH), (*INK, 0))
    ImageDraw.Draw(shape).rounded_rectangle(
        (0, 0, shape.width - 1, shape.height - 1), radius=radius, fill=BOX, outline=(*INK, 255), width=line
    )
    small = np.array(shape.resize((shape.width // SMOOTH, shape.height // SMOOTH), Image.Resampling.BOX))
    shape = Image.fromarray(small[np.ix_(down, across)])
    sheet.paste(shape.convert("RGB"), (left, top), shape.getchannel("A"))


def _stretched(length: int, edge: int) -> list[int]:
    """Indices that make a line of `length` px of one of 2 x `edge` + 1 at most, by repeating its middle."""
    repeats = max(0, length - 2 * edge - 1)
    return [i if i <= edge else max(edge, i - repeats) for i in range(length)]


def _letters(sheet: Image.Image, left: int, top: int, lettering: Lettering, letterer: Letterer):
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lettering.lines):
        baseline = top + lettering.ascent + number * lettering.pitch
        x = left + (lettering.width - letterer.measure(line, lettering.size)) / 2
        for run, font in letterer.runs(line, lettering.size):
            pen.text((x, baseline), run, fill=INK, font=font, anchor="ls")
            x += font.getlength(run)
