"""Where a hero is in a frame: what has a hero's colour, which nothing else in the world has."""

import numpy as np
from storyreel.core.storyworld.attributes import COLORS

PALETTE = np.array(list(COLORS.values()), np.float32)
NEAR = 60  # of RGB, 0 to 255: so near to one of their colours nothing is drawn but heroes
LEAST = 12  # pixels: fewer are no hero


def heroes_in(frame: np.ndarray) -> np.ndarray:
    """bool [128, 128]: what has a hero's colour in a frame [128, 128, 3] of 0 to 255."""
    return (np.linalg.norm(frame[:, :, None] - PALETTE, axis=-1) < NEAR).any(-1)


def is_hero(mask: np.ndarray) -> bool:
    return mask.sum() >= LEAST


def centre_of(mask: np.ndarray) -> np.ndarray:
    """(x, y) in pixels. On drawn frames off by .4 on average, 1 at most."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])
