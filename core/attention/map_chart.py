"""An attention map as an image: who borrows from whom, and beside it how much is borrowed by layer and step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..story.fonts import BUNDLED, EUROPE, load
from ..story.lettering import Letterer
from ..text import short
from .attention_map import CONDS, AttentionMap

INK, PAPER, ITSELF = (30, 30, 30), (255, 255, 255), (222, 222, 222)
COLORS = np.array([(255, 255, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107)], float)
MARGIN, TITLE, TEXT, SMALLEST = 28, 22, 14, 10  # px; the letters of cells are SMALLEST
LONGEST = 24  # letters of a name
SIDE = 1000  # px that the cells of a matrix take at most, where they can be so small
SUM = "in all"  # over the totals
BAR = 16  # px, height of a color scale


@dataclass(frozen=True)
class Heat:
    """A heat map. rows, columns: their names. shares: [rows, columns]. itself: leaves the diagonal gray.

    cell: width and height of a cell in px. across, down: what columns and rows are. totals: stand behind the rows.
    """

    title: str
    across: str
    down: str
    rows: Sequence[str]
    columns: Sequence[str]
    shares: np.ndarray
    cell: tuple[int, int]
    itself: bool = False
    totals: Sequence[str] = ()

    @property
    def most(self) -> float:
        """The largest share that is not of the frame itself; 0 without any."""
        return max([0.0, *(share for (i, j), share in np.ndenumerate(self.shares) if not self.is_itself(i, j))])

    def is_itself(self, row: int, column: int) -> bool:
        return self.itself and row == column


def draw(found: AttentionMap, cond: int) -> Tensor:
    """IMAGE [1, H, W, 3]."""
    shares, grid = found.shares(cond).numpy(), found.borrowed(cond).numpy()
    images = max(shares.shape)
    side = _within(SIDE // images, 10, 56)
    heats = [
        Heat(
            f"Who borrows from whom: % of a frame's attention ({CONDS[cond]})",
            "the image that is read (gray: the frame itself)",
            "the frame that borrows",
            _short(found.frames),
            _short([*found.frames, *found.stored]),
            shares,
            (side, side),
            itself=True,
            totals=[f"{100 * (1 - share):.0f}" for share in shares.diagonal()],
        ),
        Heat(
            "How much by layer and step, mean of all frames",
            "step",
            "layer",
            [layer.name for layer in found.layers.values()],
            [str(number) for number in range(1, len(found.steps) + 1)],
            grid,
            (_within(700 // len(found.steps), 8, 40), _within(SIDE // len(found.layers), 10, 30)),
        ),
    ]
    texts = [text for heat in heats for text in (heat.title, *heat.rows, *heat.columns)]
    faces = sorted(load(BUNDLED, texts), key=lambda face: face.path.name != EUROPE)
    drawn = [_Drawing(heat, Letterer(faces)).draw() for heat in heats]
    height, width = max(image.height for image in drawn), sum(image.width for image in drawn)
    sheet = Image.new("RGB", (width, height), PAPER)
    sheet.paste(drawn[0], (0, 0))
    sheet.paste(drawn[1], (drawn[0].width, 0))
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255)[None]


def color_of(share: float, most: float) -> tuple[int, int, int]:
    """White for nothing to dark blue for the most."""
    place = (share / most if most > 0 else 0.0) * (len(COLORS) - 1)
    red, green, blue = (round(np.interp(place, range(len(COLORS)), COLORS[:, channel])) for channel in range(3))
    return red, green, blue


class _Drawing:
    """One heat map on a sheet of its own."""

    def __init__(self, heat: Heat, letterer: Letterer):
        self.heat, self.letterer = heat, letterer
        self.size = min(TEXT, max(SMALLEST, min(heat.cell) - 4))
        widest = max(self.width(name) for name in heat.rows)
        highest = max(self.width(name) for name in heat.columns)
        self.turned = any(self.width(name) > heat.cell[0] - 2 for name in heat.columns)
        self.left = MARGIN + TEXT + 16 + widest
        self.top = MARGIN + TITLE + 2 * TEXT + 28 + (highest if self.turned else self.size)
        self.right = self.left + len(heat.columns) * heat.cell[0]
        self.bottom = self.top + len(heat.rows) * heat.cell[1]
        behind = 8 + max(map(self.width, (SUM, *heat.totals))) if heat.totals else 0
        width = max(self.right + behind, self.left + 240, MARGIN + self.width(heat.title, TITLE)) + MARGIN
        self.sheet = Image.new("RGB", (width, self.bottom + 24 + BAR + TEXT + 12 + MARGIN), PAPER)
        self.pen = ImageDraw.Draw(self.sheet)

    def draw(self) -> Image.Image:
        heat, (wide, high) = self.heat, self.heat.cell
        self.write(MARGIN, MARGIN + TITLE, heat.title, TITLE)
        self.write(self.left, MARGIN + TITLE + TEXT + 14, heat.across, TEXT)
        self.write_up(MARGIN + TEXT, self.bottom, heat.down, TEXT)
        for row in range(0, len(heat.rows), -(-(self.size + 1) // high)):
            name, baseline = heat.rows[row], self.top + row * high + (high + self.size) // 2 - 2
            self.write(self.left - 8 - self.width(name), baseline, name)
            if heat.totals:
                self.write(self.right + 8, baseline, heat.totals[row])
        step = 1 if not self.turned else -(-(self.size + 1) // wide)
        for column in range(0, len(heat.columns), step):
            name, x = heat.columns[column], self.left + column * wide
            if self.turned:
                self.write_up(x + (wide + self.size) // 2 - 2, self.top - 6, name)
            else:
                self.write(x + (wide - self.width(name)) // 2, self.top - 6, name)
        if heat.totals:
            self.write(self.right + 8, self.top - 6, SUM)
        self.cells()
        self.scale()
        return self.sheet

    def cells(self) -> None:
        heat, (wide, high) = self.heat, self.heat.cell
        most = heat.most
        digits = 1 if most < 0.1 else 0
        numbers = high >= 18 and wide >= self.width("8.8" if digits else "88", SMALLEST) + 2
        for (row, column), share in np.ndenumerate(heat.shares):
            x, y = self.left + column * wide, self.top + row * high
            itself = heat.is_itself(row, column)
            color = ITSELF if itself else color_of(share, most)
            self.pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=color, outline=(235, 235, 235))
            if numbers and not itself and share > 0:
                number = f"{100 * share:.{digits}f}"
                ink = PAPER if sum(color) < 380 else INK
                place = x + (wide - self.width(number, SMALLEST)) // 2
                self.write(place, y + (high + SMALLEST) // 2 - 1, number, SMALLEST, ink)
        self.pen.rectangle((self.left - 1, self.top - 1, self.right, self.bottom), outline=INK)

    def scale(self) -> None:
        """The color scale under the cells."""
        y, most = self.bottom + 24, self.heat.most
        for x in range(200):
            self.pen.line((self.left + x, y, self.left + x, y + BAR), fill=color_of(x / 199 * most, most))
        self.pen.rectangle((self.left - 1, y - 1, self.left + 200, y + BAR), outline=INK)
        self.write(self.left, y + BAR + TEXT + 6, "0 %", TEXT)
        last = f"{100 * most:.3g} %"
        self.write(self.left + 200 - self.width(last, TEXT), y + BAR + TEXT + 6, last, TEXT)

    def width(self, text: str, size: int = 0) -> int:
        return int(-(-self.letterer.measure(text, size or self.size) // 1))

    def write(self, x: int, baseline: int, text: str, size: int = 0, ink: tuple[int, int, int] = INK) -> None:
        place = float(x)
        for run, font in self.letterer.runs(text, size or self.size):
            self.pen.text((place, baseline), run, fill=ink, font=font, anchor="ls")
            place += font.getlength(run)

    def write_up(self, baseline: int, bottom: int, text: str, size: int = 0) -> None:
        """From bottom to top."""
        size = size or self.size
        strip = Image.new("L", (self.width(text, size) + 2, 2 * size), 0)
        pen, place = ImageDraw.Draw(strip), 0.0
        for run, font in self.letterer.runs(text, size):
            pen.text((place, round(1.5 * size)), run, fill=255, font=font, anchor="ls")
            place += font.getlength(run)
        strip = strip.rotate(90, expand=True)
        self.sheet.paste(INK, (baseline - round(1.5 * size), bottom - strip.height), strip)


def _short(names: Sequence[str]) -> list[str]:
    return [short(name, LONGEST) for name in names]


def _within(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))
