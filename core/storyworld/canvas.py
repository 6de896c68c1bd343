"""A supersampled drawing surface that remembers which hero covers each of its pixels.

Points are arrays [points, 2] of x and y in picture widths and heights, from the upper left corner.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SMOOTH = 4  # drawn this many times larger, then averaged
INK = (40, 32, 44)
INK_WIDTH = 0.0085  # of an outline, in picture widths: a little more than a pixel of 128

Color = tuple[int, int, int]


class Canvas:
    """A square picture of `size` pixels. Owner 0 is the scene, owners 1 and up are heroes."""

    def __init__(self, size: int):
        self.size = size
        self.scale = size * SMOOTH
        self._picture = Image.new("RGB", (self.scale, self.scale))
        self._owner = Image.new("L", (self.scale, self.scale))
        self._pen = ImageDraw.Draw(self._picture)
        self._owner_pen = ImageDraw.Draw(self._owner)

    def fill(self, points: np.ndarray, color: Color, owner: int = 0):
        flat = (points * self.scale).ravel().tolist()
        self._pen.polygon(flat, fill=color)
        if owner:
            self._owner_pen.polygon(flat, fill=owner)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color):
        corners = (left, top, right, bottom)
        self._pen.rectangle([round(corner * self.scale) for corner in corners], fill=color)

    def disc(self, x: float, y: float, radius: float, color: Color, flat: float = 1.0):
        """A circle of the scene; `flat` is its height over its width."""
        box = (x - radius, y - radius * flat, x + radius, y + radius * flat)
        self._pen.ellipse([corner * self.scale for corner in box], fill=color)

    def sky(self, top: Color, bottom: Color, horizon: float):
        """A gradient from the upper edge to `horizon`, and `bottom` below it."""
        part = np.clip(np.arange(self.scale) / (horizon * self.scale), 0, 1)[:, None]
        column = (np.array(top) * (1 - part) + np.array(bottom) * part).round().astype(np.uint8)
        self._picture.paste(Image.fromarray(column[:, None]).resize(self._picture.size, Image.Resampling.NEAREST))

    def image(self) -> np.ndarray:
        """The picture, uint8 [size, size, 3]."""
        return np.asarray(self._picture.reduce(SMOOTH))

    def masks(self, owners: int) -> np.ndarray:
        """What is visible of each hero, uint8 [owners, size, size], 255 where it covers the whole pixel."""
        return np.stack([self._mask(owner) for owner in range(1, owners + 1)])

    def _mask(self, owner: int) -> np.ndarray:
        table = [255 if value == owner else 0 for value in range(256)]
        return np.asarray(self._owner.point(table).reduce(SMOOTH))


@dataclass(frozen=True)
class Brush:
    """Draws in the coordinates of one part of a hero. `matrix` [2, 3] takes them to the picture's."""

    canvas: Canvas
    owner: int
    matrix: np.ndarray

    def within(self, x: float, y: float, angle: float = 0.0, sx: float = 1.0, sy: float = 1.0) -> "Brush":
        """A brush whose origin lies at (x, y), turned clockwise by `angle` degrees and stretched."""
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        linear = self.matrix[:, :2]
        inner = np.array([[c * sx, -s * sy], [s * sx, c * sy]])
        origin = linear @ (x, y) + self.matrix[:, 2]
        return Brush(self.canvas, self.owner, np.column_stack([linear @ inner, origin]))

    def at(self, x: float, y: float) -> np.ndarray:
        """The place of (x, y) in the picture."""
        return self.matrix[:, :2] @ (x, y) + self.matrix[:, 2]

    def shape(self, points: np.ndarray, color: Color, ink: float = 1.0):
        """A polygon with an outline of `ink` times the usual width around it."""
        placed = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        if ink:
            self.canvas.fill(_grown(placed, ink * INK_WIDTH), INK, self.owner)
        self.canvas.fill(placed, color, self.owner)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color, ink: float = 1.0, angle: float = 0.0):
        points = unit_oval() * (rx, ry)
        if angle:
            c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            points = points @ np.array([[c, s], [-s, c]])
        self.shape(points + (x, y), color, ink)

    def smile(self, x: float, y: float, width: float, depth: float, thick: float, color: Color):
        """A thin line that hangs between two ends, thickest in its middle."""
        across = np.linspace(-1, 1, 9)
        sag = 1 - across**2
        upper = np.column_stack([across, depth * sag - 0.5 * thick])
        lower = np.column_stack([across, depth * sag + 0.5 * thick])[::-1]
        self.shape(np.concatenate([upper, lower]) * (width, 1) + (x, y), color, ink=0)

    def limb(self, joints: list[tuple[float, float]], width: float, color: Color):
        """A bent tube through `joints`, rounded at both ends."""
        tubes = [_tube(np.array(a), np.array(b), width / 2) for a, b in zip(joints, joints[1:], strict=False)]
        placed = [tube @ self.matrix[:, :2].T + self.matrix[:, 2] for tube in tubes]
        for tube in placed:
            self.canvas.fill(_grown(tube, INK_WIDTH), INK, self.owner)
        for tube in placed:
            self.canvas.fill(tube, color, self.owner)


@cache
def unit_oval(power: float = 2.0, points: int = 28) -> np.ndarray:
    """Points of the superellipse |x|^power + |y|^power = 1: 2 is a circle, more is squarer."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x, y = np.cos(turn), np.sin(turn)
    return np.column_stack([np.sign(x) * np.abs(x) ** (2 / power), np.sign(y) * np.abs(y) ** (2 / power)])


def _tube(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    along = b - a
    heading = math.atan2(along[1], along[0])
    turn = heading + np.linspace(np.pi / 2, 3 * np.pi / 2, 8)
    cap = radius * np.column_stack([np.cos(turn), np.sin(turn)])
    return np.concatenate([a + cap, b - cap])


def _grown(points: np.ndarray, width: float) -> np.ndarray:
    """A polygon moved outwards by `width` on every side."""
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    area = (points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0]).sum()
    both = _normals(before) + _normals(after)
    # A mitre: longer at sharp corners, up to twice the width.
    both *= width * (2 / (both**2).sum(1, keepdims=True).clip(1.0))
    return points + both if area > 0 else points - both


def _normals(edges: np.ndarray) -> np.ndarray:
    return edges[:, ::-1] * (1, -1) / np.linalg.norm(edges, axis=1, keepdims=True).clip(1e-9)
