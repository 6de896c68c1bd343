"""The world's pictures: which ones there are, and their drawing together with their truth.

Everything is a pure function of (seed, index): picture 7 of seed 0 is the same on every machine and in any order.
"""

from dataclasses import dataclass, replace
from random import Random

import numpy as np

from . import attributes as words
from .attributes import Clip, Figure, Look, Picture
from .canvas import Canvas
from .hero import draw_hero
from .motion import place_at, view_at
from .pose import Pose, still
from .scenes import draw_scene, draw_shadow

SIZE = 128


@dataclass(frozen=True)
class Rendered:
    """A picture with its truth, or a clip where every array begins with an axis of frames.

    image: uint8 [size, size, 3]. masks: uint8 [heroes, size, size], what is visible of each hero, 255 where it covers
    a whole pixel. heads, feet: [heroes, 2], x and y in picture widths and heights. Heroes are in the order of
    `picture.figures`. `attributes.attributes(picture)` is the truth in words.
    """

    picture: Picture
    image: np.ndarray
    masks: np.ndarray
    heads: np.ndarray
    feet: np.ndarray


def sample_picture(seed: int, index: int, twins: float = 0.3, triplets: float = 0.05) -> Picture:
    """A picture, drawn by chance. twins, triplets: the share of pictures that show two or three heroes of one look.

    A picture of one hero has the same look and scene at any share of twins, so that training sets with and without
    them differ in nothing else.
    """
    rng = Random(f"picture/{seed}/{index}")
    chance, look, scene, scenery = rng.random(), sample_look(rng), rng.choice(words.SCENES), rng.getrandbits(32)
    number = 2 if chance < twins else 3 if chance < twins + triplets else 1
    return Picture(look, _figures(rng, number, words.PICTURE_ACTIONS), scene, scenery)


def sample_clip(seed: int, index: int, twins: float = 0.0, triplets: float = 0.0, wide: float = 0.2) -> Clip:
    """A clip, drawn by chance. wide: share of clips that cross the picture, which one hero alone can do."""
    rng = Random(f"clip/{seed}/{index}")
    chance, look, scene, scenery = rng.random(), sample_look(rng), rng.choice(words.SCENES), rng.getrandbits(32)
    number = 2 if chance < twins else 3 if chance < twins + triplets else 1
    is_wide = rng.random() < wide and number == 1
    figures = _figures(rng, number, words.WIDE_ACTIONS if is_wide else words.GENTLE_ACTIONS)
    # Wherever it is going, it begins away from the edges.
    if number == 1:
        figures = (replace(figures[0], x=rng.uniform(0.32, 0.68)),)
    starts = tuple(rng.choice(words.STARTS) for _ in figures)
    pan = ""
    if all(figure.action in ("standing", "waving", "blinking") for figure in figures):
        pan = rng.choice(("", *words.PANS))
    return Clip(look, figures, scene, scenery, starts, rng.getrandbits(32), rng.uniform(0.85, 1.2), pan)


def sample_story(seed: int, index: int, frames: int = 4) -> tuple[Picture, ...]:
    """Pictures of one hero in several scenes and actions, as a story tells them."""
    rng = Random(f"story/{seed}/{index}")
    look, size = sample_look(rng), rng.choice(tuple(words.SIZES))
    pictures = []
    for _ in range(frames):
        figures = _figures(rng, 1, words.PICTURE_ACTIONS, size)
        pictures.append(Picture(look, figures, rng.choice(words.SCENES), rng.getrandbits(32)))
    return tuple(pictures)


def sample_look(rng: Random) -> Look:
    colors = tuple(words.COLORS)
    return Look(
        rng.choice(words.SHAPES), rng.choice(colors), rng.choice(words.HATS), rng.choice(colors), rng.choice(colors)
    )


def _figures(rng: Random, number: int, actions: tuple[str, ...], size: str = "") -> tuple[Figure, ...]:
    places = {
        1: (rng.choice(tuple(words.PLACES.values())),),
        2: rng.choice(((0.27, 0.73), (0.2, 0.6), (0.4, 0.8))),
        3: (0.17, 0.5, 0.83),
    }[number]
    together = rng.random() < 0.5  # several heroes often do the same
    shared = rng.choice(actions)
    figures = []
    for place in places:
        chosen = size or rng.choice(tuple(words.SIZES))
        height = words.SIZES[chosen] * rng.uniform(0.95, 1.05) * (1.0, 0.9, 0.78)[number - 1]
        action = shared if together else rng.choice(actions)
        facing = action.split()[-1] if action.startswith("walking") and actions is words.PICTURE_ACTIONS else None
        figures.append(
            Figure(
                action=action,
                facing=facing or rng.choice(tuple(words.FACINGS)),
                size=chosen,
                hand=rng.choice((-1, 1)),
                x=place + rng.uniform(-0.05, 0.05) / number,
                ground=rng.uniform(0.87, 0.95),
                height=height,
            )
        )
    return tuple(figures)


def render_picture(picture: Picture, size: int = SIZE) -> Rendered:
    """Draw a picture, `size` pixels a side."""
    places = [(still(figure), figure.x, figure.ground) for figure in picture.figures]
    return Rendered(picture, *_draw(picture, places, 0.0, size))


def render_clip(clip: Clip, frames: int = 16, size: int = SIZE, first: int = 0) -> Rendered:
    """Draw `frames` frames of a clip, from number `first` on. A frame is the same in clips of any length."""
    drawn = [
        _draw(
            clip,
            [place_at(clip, number, time) for number in range(len(clip.figures))],
            view_at(clip, time),
            size,
        )
        for time in range(first, first + frames)
    ]
    return Rendered(clip, *(np.stack(arrays) for arrays in zip(*drawn, strict=True)))


def _draw(
    picture: Picture, places: list[tuple[Pose, float, float]], view: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    canvas = Canvas(size)
    draw_scene(canvas, picture.scene, picture.scenery, view)
    heads, feet = np.zeros((2, len(places), 2))
    # From the far one to the near one.
    order = sorted(range(len(places)), key=lambda number: places[number][2])
    for number in order:
        pose, x, ground = places[number]
        width = picture.figures[number].height * (0.24 + 0.05 * pose.seat - 0.25 * pose.air)
        draw_shadow(canvas, picture.scene, x - view, ground, width)
    for number in order:
        pose, x, ground = places[number]
        figure = picture.figures[number]
        heads[number] = draw_hero(canvas, picture.look, figure, pose, x - view, ground, owner=number + 1)
        feet[number] = x - view, ground - pose.air * figure.height
    return canvas.image(), canvas.masks(len(places)), heads, feet
