"""Comic pages drawn: pictures in thin frames on white, and their captions in boxes at the lower edge."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from . import fonts
from .layout import Page, Panel, pages
from .lettering import LEGIBLE, Letterer, Lettering, clean

PAPER, INK = (255, 255, 255), (24, 22, 26)
BOX = (*PAPER, 236)  # a little of the picture shows through
SMOOTH = 4  # a box is drawn this many times larger, so that its round corners come out smooth


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
) -> torch.Tensor:
    """Comic pages of pictures [frames, height, width, 3], values 0 to 1, with one caption each, which may be empty.

    layout, panels_per_page, page_width, border, seed: see `layout.pages`. font: one of `fonts.names`. caption_size: the
    largest letters in pixels an em, 0 for a size that suits the page.
    Returns [pages, height, width, 3] on the CPU, shorter pages continued in white.
    Raises ValueError where pictures and captions differ in number, and for characters that the font cannot draw.
    """
    if len(images) != len(captions):
        raise ValueError(
            f"{len(images)} pictures arrived for a story of {len(captions)} frames; a comic page needs one picture for "
            "each frame, in the story's order."
        )
    captions = [clean(caption) for caption in captions]
    letterer = Letterer(fonts.load(font, captions))
    _refuse_missing(letterer, captions, font)

    pictures = [_picture(image) for image in images]
    places = pages(layout, len(pictures), pictures[0].size, border, seed, panels_per_page, page_width)
    drawn = [_draw(page, pictures, captions, letterer, border, caption_size) for page in places]
    height = max(page.height for page in drawn)
    return torch.stack([torch.from_numpy(_lengthened(page, height)) for page in drawn]).float() / 255


def _refuse_missing(letterer: Letterer, captions: Sequence[str], font: str):
    """One error for the whole story, so that it is mended in one go."""
    found = [
        f"frame {number}: " + ", ".join(f"{character} (U+{ord(character):04X})" for character in missing)
        for number, caption in enumerate(captions, start=1)
        if (missing := letterer.missing(caption))
    ]
    if found:
        raise ValueError(
            f"The font {font!r} has no glyph for some characters of the captions; choose a font that has them, or "
            f"write them otherwise. {'; '.join(found)}."
        )


def _picture(image: torch.Tensor) -> Image.Image:
    values = (image[..., :3].float().clamp(0, 1) * 255).round()
    return Image.fromarray(values.byte().cpu().numpy())


def _lengthened(page: Image.Image, height: int) -> np.ndarray:
    sheet = Image.new("RGB", (page.width, height), PAPER)
    sheet.paste(page)
    return np.array(sheet)


def _draw(
    page: Page,
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    letterer: Letterer,
    border: int,
    caption_size: int,
) -> Image.Image:
    sheet = Image.new("RGB", (page.width, page.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    line = min(border // 3, max(1, round(page.width / 550)))
    for panel in page.panels:
        picture = pictures[panel.frame]
        if picture.size != (panel.width, panel.height):
            picture = picture.resize((panel.width, panel.height), Image.Resampling.LANCZOS)
        right, bottom = panel.x + panel.width - 1, panel.y + panel.height - 1
        pen.rectangle((panel.x - line, panel.y - line, right + line, bottom + line), fill=INK)
        sheet.paste(picture, (panel.x, panel.y))
    # Captions come last: one that outgrows its panel must not lose its end to the next picture.
    for panel in page.panels:
        if captions[panel.frame]:
            sheet = _write(sheet, panel, captions[panel.frame], letterer, caption_size or page.width / 45)
    return sheet


def _write(sheet: Image.Image, panel: Panel, caption: str, letterer: Letterer, caption_size: float) -> Image.Image:
    """The page with a panel's caption, longer where the caption asks for it."""
    largest = max(LEGIBLE, round(min(caption_size, panel.width / 14)))
    margin = round(0.5 * largest)
    pad_x, pad_y = _padding(largest)
    # The box, its padding included, is to stay within half of the panel; see `Letterer.fit` for what text may take.
    room = max(1, panel.width - 2 * margin - 2 * pad_x), max(1, panel.height - 4 * pad_y)
    lettering = letterer.fit(caption, *room, largest)
    if not lettering.fits:
        logging.warning(
            "The caption of frame %d is too long for its panel of %d x %d pixels, even in letters of %d pixels: its "
            "box covers more than half of the picture. Shorten it, or give the frame more room.",
            panel.frame + 1,
            panel.width,
            panel.height,
            lettering.size,
        )
    pad_x, pad_y = _padding(lettering.size)
    width, height = lettering.width + 2 * pad_x, lettering.height + 2 * pad_y
    left = max(0, panel.x + (panel.width - width) // 2)
    top = panel.y + max(margin, panel.height - margin - height)
    if top + height + margin > sheet.height:
        sheet = Image.fromarray(_lengthened(sheet, top + height + margin))
    _box(sheet, left, top, width, height, lettering.size)
    _letters(sheet, left + pad_x, top + pad_y, lettering, letterer)
    return sheet


def _padding(size: int) -> tuple[int, int]:
    """White between a box's edge and its text, at the sides and above, for letters of `size`."""
    return max(3, round(0.6 * size)), max(3, round(0.45 * size))


def _box(sheet: Image.Image, left: int, top: int, width: int, height: int, size: int):
    shape = Image.new("RGBA", (width * SMOOTH, height * SMOOTH), (*INK, 0))
    ImageDraw.Draw(shape).rounded_rectangle(
        (0, 0, shape.width - 1, shape.height - 1),
        radius=round(0.4 * size * SMOOTH),
        fill=BOX,
        outline=(*INK, 255),
        width=max(SMOOTH, round(size / 16 * SMOOTH)),
    )
    shape = shape.resize((width, height), Image.Resampling.BOX)
    sheet.paste(shape.convert("RGB"), (left, top), shape.getchannel("A"))


def _letters(sheet: Image.Image, left: int, top: int, lettering: Lettering, letterer: Letterer):
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lettering.lines):
        baseline = top + lettering.ascent + number * lettering.pitch
        x = left + (lettering.width - letterer.measure(line, lettering.size)) / 2
        for run, font in letterer.runs(line, lettering.size):
            pen.text((x, baseline), run, fill=INK, font=font, anchor="ls")
            x += font.getlength(run)
