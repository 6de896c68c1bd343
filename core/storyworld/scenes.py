"""Scenes: pastel backgrounds in a few planes, so that a view which moves sideways shows depth.

Places are in picture widths and heights. A plane at `depth` 1 moves with the ground, at 0 it stays with the sky. Planes
reach beyond both edges as far as a view ever moves.
"""

import math
from random import Random

import numpy as np

from .canvas import Canvas, Color

HORIZON = 0.66
REACH = 0.4  # how far a plane continues beyond the edges
CLOUD, TRUNK = (246, 250, 253), (139, 104, 82)


def draw_scene(canvas: Canvas, scene: str, scenery: int, view: float = 0.0):
    """Draw a scene, seen from `view` picture widths to the right of its middle."""
    painters = {
        "meadow": _meadow,
        "beach": _beach,
        "town": _town,
        "mountains": _mountains,
        "forest": _forest,
        "desert": _desert,
        "night": _night,
        "room": _room,
    }
    painters[scene](canvas, Random(f"{scene}/{scenery}"), view)


def draw_shadow(canvas: Canvas, scene: str, x: float, ground: float, width: float):
    colors = {
        "meadow": (116, 172, 98),
        "beach": (214, 190, 142),
        "town": (150, 146, 156),
        "mountains": (206, 214, 232),
        "forest": (112, 142, 96),
        "desert": (212, 166, 118),
        "night": (44, 62, 84),
        "room": (172, 138, 112),
    }
    canvas.disc(x, ground, width, colors[scene], flat=0.22)


def _spread(rng: Random, count: int, jitter: float = 0.35) -> list[float]:
    """`count` places over the width and its reach, one in each equal part."""
    part = (1 + 2 * REACH) / count
    return [-REACH + part * (number + 0.5 + rng.uniform(-jitter, jitter)) for number in range(count)]


def _ridge(canvas: Canvas, rng: Random, base: float, height: float, waves: float, shift: float, color: Color):
    """Rolling land: everything below a wave around `base`."""
    x = np.linspace(-REACH, 1 + REACH, 40)
    phase, second = rng.uniform(0, math.tau), rng.uniform(0, math.tau)
    y = base - height * (0.6 * np.sin(waves * x * math.tau + phase) + 0.4 * np.sin(1.7 * waves * x * math.tau + second))
    canvas.fill(np.column_stack([np.r_[x - shift, 2, -1], np.r_[y, 1.1, 1.1]]), color)


def _sun(canvas: Canvas, rng: Random, color: Color = (255, 240, 176)):
    canvas.disc(rng.uniform(0.12, 0.88), rng.uniform(0.12, 0.2), 0.075, color)


def _clouds(canvas: Canvas, rng: Random, view: float):
    for x in _spread(rng, 3):
        x, y, size = x - 0.15 * view, rng.uniform(0.1, 0.3), rng.uniform(0.8, 1.2)
        for dx, dy, radius in ((-0.06, 0.012, 0.035), (0, -0.008, 0.05), (0.06, 0.012, 0.035)):
            canvas.disc(x + dx * size, y + dy * size, radius * size, CLOUD)


def _meadow(canvas: Canvas, rng: Random, view: float):
    canvas.sky((146, 204, 242), (214, 238, 248), HORIZON)
    _sun(canvas, rng)
    _clouds(canvas, rng, view)
    _ridge(canvas, rng, 0.62, 0.06, 0.8, 0.4 * view, (176, 218, 150))
    for x in _spread(rng, 3):
        _round_tree(canvas, x - 0.6 * view, rng.uniform(0.63, 0.67), rng.uniform(0.8, 1.15))
    _ridge(canvas, rng, 0.7, 0.02, 0.6, view, (146, 204, 122))
    for x in _spread(rng, 12):
        y = rng.uniform(0.75, 0.98)
        canvas.disc(x - view, y, 0.013, (252, 250, 244))
        canvas.disc(x - view, y, 0.006, (250, 222, 128))


def _round_tree(canvas: Canvas, x: float, y: float, size: float):
    canvas.box(x - 0.014 * size, y - 0.12 * size, x + 0.014 * size, y + 0.05, TRUNK)
    canvas.disc(x, y - 0.19 * size, 0.1 * size, (122, 184, 112))
    canvas.disc(x - 0.03 * size, y - 0.22 * size, 0.05 * size, (140, 198, 126))


def _beach(canvas: Canvas, rng: Random, view: float):
    canvas.sky((158, 216, 246), (224, 244, 250), 0.5)
    _sun(canvas, rng)
    _clouds(canvas, rng, view)
    canvas.box(0, 0.5, 1, 1, (104, 180, 214))
    for x in _spread(rng, 6):
        x, y = x - 0.4 * view, rng.uniform(0.53, 0.61)
        canvas.box(x - 0.05, y, x + 0.05, y + 0.008, (196, 230, 240))
    sail = rng.uniform(0.1, 0.9) - 0.3 * view
    canvas.fill(np.array([(sail, 0.36), (sail + 0.075, 0.485), (sail, 0.485)]), (255, 252, 246))
    canvas.fill(np.array([(sail - 0.05, 0.5), (sail + 0.09, 0.5), (sail + 0.06, 0.53), (sail - 0.02, 0.53)]), TRUNK)
    _ridge(canvas, rng, 0.68, 0.012, 1.1, view, (240, 246, 240))
    _ridge(canvas, rng, 0.695, 0.012, 1.1, view, (240, 220, 172))
    for x in _spread(rng, 5):
        canvas.disc(x - view, rng.uniform(0.76, 0.97), 0.012, (222, 196, 150), flat=0.6)


def _town(canvas: Canvas, rng: Random, view: float):
    canvas.sky((250, 208, 184), (254, 232, 208), HORIZON)
    walls = ((168, 156, 182), (186, 170, 186), (150, 146, 176))
    for number, x in enumerate(_spread(rng, 9, jitter=0.08)):
        x, top = x - 0.5 * view, rng.uniform(0.22, 0.46)
        canvas.box(x - 0.095, top, x + 0.095, 0.74, walls[number % 3])
        for row in range(int((0.66 - top) / 0.1)):
            for column in (-0.042, 0.042):
                lit = rng.random() < 0.6
                left, upper = x + column - 0.022, top + 0.04 + 0.1 * row
                canvas.box(left, upper, left + 0.044, upper + 0.052, (255, 240, 186) if lit else (128, 122, 154))
    canvas.box(0, 0.72, 1, 0.76, (216, 210, 214))
    canvas.box(0, 0.76, 1, 1, (176, 172, 182))
    for number in range(-2, 7):
        x = 0.25 * number - view
        canvas.box(x, 0.965, x + 0.13, 0.985, (240, 238, 234))


def _mountains(canvas: Canvas, rng: Random, view: float):
    canvas.sky((176, 202, 232), (226, 236, 248), HORIZON)
    _clouds(canvas, rng, view)
    for x in _spread(rng, 5):
        x, peak, half = x - 0.3 * view, rng.uniform(0.2, 0.38), rng.uniform(0.24, 0.32)
        canvas.fill(np.array([(x, peak), (x + half, 0.72), (x - half, 0.72)]), (142, 154, 190))
        part = 0.36 / (0.72 - peak) * 0.36
        y, dx = peak + part * (0.72 - peak), part * half
        zigzag = [(x + dx, y), (x + 0.4 * dx, y - 0.03), (x, y + 0.02), (x - 0.4 * dx, y - 0.03), (x - dx, y)]
        canvas.fill(np.array([(x, peak), *zigzag]), (250, 252, 255))
    _ridge(canvas, rng, 0.69, 0.025, 0.7, view, (240, 244, 252))
    for x in _spread(rng, 16, jitter=0.45):
        canvas.disc(x - 0.2 * view, rng.uniform(0.05, 0.6), 0.009, (252, 253, 255))


def _forest(canvas: Canvas, rng: Random, view: float):
    canvas.sky((196, 226, 206), (226, 240, 214), HORIZON)
    for count, depth, base, size, color in (
        (9, 0.35, 0.7, 0.85, (156, 194, 158)),
        (6, 0.65, 0.73, 1.15, (112, 162, 126)),
    ):
        for x in _spread(rng, count):
            _fir(canvas, x - depth * view, base, size * rng.uniform(0.85, 1.15), color)
    _ridge(canvas, rng, 0.73, 0.015, 0.8, view, (142, 172, 118))
    for x in _spread(rng, 5):
        x, y = x - view, rng.uniform(0.78, 0.98)
        canvas.disc(x, y, 0.017, (226, 214, 196), flat=1.2)
        canvas.disc(x, y - 0.016, 0.03, (204, 134, 120), flat=0.6)


def _fir(canvas: Canvas, x: float, y: float, size: float, color: Color):
    canvas.box(x - 0.014 * size, y - 0.1, x + 0.014 * size, y + 0.04, TRUNK)
    for level, width in ((0.06, 0.12), (0.17, 0.1), (0.28, 0.075)):
        low = y - level * size
        tip = (x, low - 0.19 * size)
        canvas.fill(np.array([tip, (x + width * size, low), (x - width * size, low)]), color)


def _desert(canvas: Canvas, rng: Random, view: float):
    canvas.sky((252, 222, 172), (255, 242, 214), HORIZON)
    _sun(canvas, rng, (255, 252, 232))
    _ridge(canvas, rng, 0.6, 0.07, 0.9, 0.3 * view, (242, 206, 158))
    _ridge(canvas, rng, 0.68, 0.04, 0.7, 0.6 * view, (236, 194, 142))
    for x in _spread(rng, 3):
        _cactus(canvas, x - 0.8 * view, rng.uniform(0.72, 0.76), rng.uniform(0.8, 1.2), rng.choice((-1, 1)))
    _ridge(canvas, rng, 0.75, 0.02, 0.6, view, (232, 186, 134))


def _cactus(canvas: Canvas, x: float, y: float, size: float, side: int):
    color = (126, 170, 134)
    half, top = 0.026 * size, y - 0.28 * size
    canvas.box(x - half, top, x + half, y + 0.04, color)
    canvas.disc(x, top, half, color)
    for way, low, high in ((side, 0.1, 0.2), (-side, 0.15, 0.23)):
        arm = x + way * 0.075 * size
        left, right = sorted((x, arm))
        canvas.box(left, y - (low + 0.035) * size, right, y - low * size, color)
        canvas.box(arm - 0.018 * size, y - high * size, arm + 0.018 * size, y - low * size, color)
        canvas.disc(arm, y - high * size, 0.018 * size, color)


def _night(canvas: Canvas, rng: Random, view: float):
    canvas.sky((30, 36, 84), (70, 78, 134), HORIZON)
    moon, height = rng.uniform(0.12, 0.88), rng.uniform(0.13, 0.2)
    canvas.disc(moon, height, 0.08, (252, 246, 214))
    for dx, dy, radius in ((-0.025, -0.02, 0.016), (0.03, 0.012, 0.02), (-0.012, 0.035, 0.012)):
        canvas.disc(moon + dx, height + dy, radius, (232, 224, 188))
    for x in _spread(rng, 20, jitter=0.48):
        canvas.disc(x - 0.05 * view, rng.uniform(0.03, 0.56), rng.uniform(0.005, 0.009), (248, 246, 226))
    _ridge(canvas, rng, 0.62, 0.06, 0.7, 0.4 * view, (44, 56, 98))
    house = rng.uniform(0.1, 0.9) - 0.6 * view
    canvas.box(house - 0.08, 0.55, house + 0.08, 0.72, (36, 40, 72))
    canvas.fill(np.array([(house - 0.1, 0.555), (house, 0.46), (house + 0.1, 0.555)]), (28, 32, 60))
    for x in (house - 0.05, house + 0.015):
        canvas.box(x, 0.59, x + 0.035, 0.63, (255, 232, 150))
    _ridge(canvas, rng, 0.71, 0.02, 0.6, view, (56, 78, 102))


def _room(canvas: Canvas, rng: Random, view: float):
    canvas.box(0, 0, 1, 1, (244, 230, 214))
    for x in np.arange(-REACH, 1 + REACH, 0.1):
        canvas.box(x - 0.8 * view, 0, x + 0.045 - 0.8 * view, 0.72, (238, 220, 202))
    window = rng.choice((0.2, 0.8)) + rng.uniform(-0.04, 0.04) - 0.8 * view
    canvas.box(window - 0.14, 0.14, window + 0.14, 0.46, (255, 255, 252))
    canvas.box(window - 0.12, 0.16, window + 0.12, 0.44, (176, 216, 240))
    canvas.box(window - 0.01, 0.16, window + 0.01, 0.44, (255, 255, 252))
    canvas.box(window - 0.12, 0.29, window + 0.12, 0.31, (255, 255, 252))
    shelf = (0.8 if window + 0.8 * view < 0.5 else 0.2) + rng.uniform(-0.04, 0.04) - 0.8 * view
    canvas.box(shelf - 0.13, 0.4, shelf + 0.13, 0.43, TRUNK)
    for number, x in enumerate(np.arange(shelf - 0.1, shelf + 0.08, 0.042)):
        color = ((196, 156, 150), (156, 176, 190), (190, 186, 150))[number % 3]
        canvas.box(x, 0.4 - rng.uniform(0.08, 0.13), x + 0.034, 0.4, color)
    canvas.box(0, 0.7, 1, 0.73, (255, 250, 242))
    canvas.box(0, 0.73, 1, 1, (206, 170, 140))
    for y in (0.79, 0.86, 0.94):
        canvas.box(0, y, 1, y + 0.006, (190, 152, 124))
    canvas.disc(0.5 - view, 0.88, 0.4, (226, 206, 196), flat=0.22)
    canvas.disc(0.5 - view, 0.88, 0.36, (214, 190, 184), flat=0.22)
