"""What there is in the world, as immutable values: how a hero looks, where it stands, what it does.

Nothing here draws. Every word is the one that captions use.
"""

from dataclasses import dataclass, replace

# Six well separated hues. Scenes are pastel, so that these belong to heroes alone.
COLORS = {
    "red": (222, 42, 48),
    "orange": (247, 140, 28),
    "yellow": (252, 216, 62),
    "green": (34, 158, 78),
    "blue": (38, 98, 222),
    "purple": (142, 62, 186),
}
SHAPES = ("round", "slim", "square", "flared")
HATS = ("top", "pointed", "woolly", "wide")
SIZES = {"small": 0.52, "big": 0.68}  # height with hat, in picture heights
SCENES = ("meadow", "beach", "town", "mountains", "forest", "desert", "night", "room")
PLACES = {"left": 0.26, "middle": 0.5, "right": 0.74}  # center of the place, in picture widths
FACINGS = {"left": -1.0, "ahead": 0.0, "right": 1.0}
NUMBERS = {1: "hero", 2: "twins", 3: "triplets"}

ANYWHERE = ("standing", "waving", "sitting")  # done in pictures and in clips
PICTURE_ACTIONS = (*ANYWHERE, "jumping", "sleeping", "cheering", "reading", "walking left", "walking right")
GENTLE_ACTIONS = (
    *ANYWHERE,
    "nodding",
    "hopping",
    "blinking",
    "turning left",
    "turning right",
    "stepping left",
    "stepping right",
)
WIDE_ACTIONS = ("walking left", "walking right", "leaping left", "leaping right")
CLIP_ACTIONS = GENTLE_ACTIONS + WIDE_ACTIONS
PANS = ("left", "right")
# How a hero may be found when a clip begins: whatever it is about to do.
STARTS = ("standing", "sitting", "cheering", "left arm up", "right arm up", "striding left", "striding right")


@dataclass(frozen=True)
class Look:
    """How a hero looks. Its boots repeat the hat's color, its mittens the scarf's."""

    shape: str
    color: str
    hat: str
    hat_color: str
    scarf_color: str


@dataclass(frozen=True)
class Figure:
    """One hero in a picture or a clip.

    action: of PICTURE_ACTIONS or CLIP_ACTIONS. facing, size: their words. hand: -1 or 1, the side that it waves with.
    x, ground: where its feet stand, in picture widths and heights from the upper left. height: hat to boots, in
    picture heights, near the size's own.
    """

    action: str
    facing: str
    size: str
    hand: int
    x: float
    ground: float
    height: float

    @property
    def place(self) -> str:
        return min(PLACES, key=lambda place: abs(PLACES[place] - self.x))


@dataclass(frozen=True)
class Picture:
    """Everything that a picture shows. Its heroes share one look, and stand in `figures` from left to right.

    scenery: seeds what a scene leaves free (trees, clouds, windows).
    """

    look: Look
    figures: tuple[Figure, ...]
    scene: str
    scenery: int

    def with_look(self, **changes: str) -> "Picture":
        return replace(self, look=replace(self.look, **changes))


@dataclass(frozen=True)
class Clip(Picture):
    """Everything that a clip shows, at whatever length it is drawn.

    starts: of STARTS, one a figure. jitter: seeds the small differences between two starts of one name.
    tempo: 1 is usual, more is faster. pan: where the view moves, of PANS, or empty.
    """

    starts: tuple[str, ...]
    jitter: int
    tempo: float
    pan: str = ""


def attributes(picture: Picture) -> dict[str, str]:
    """Name and value of everything that a caption of this picture may name. Attributes in which several heroes differ
    are left out, except their actions, which are joined by commas from left to right. A clip has no single place and
    facing."""
    look, figures = picture.look, picture.figures
    values = {
        "number": NUMBERS[len(figures)],
        "shape": look.shape,
        "color": look.color,
        "hat": look.hat,
        "hat color": look.hat_color,
        "scarf color": look.scarf_color,
        "action": ",".join(figure.action for figure in figures),
        "scene": picture.scene,
    }
    if len({figure.action for figure in figures}) == 1:
        values["action"] = figures[0].action
    if len(figures) == 1:
        values["size"] = figures[0].size
        if not isinstance(picture, Clip):
            values["place"] = figures[0].place
            if not figures[0].action.startswith("walking"):
                values["facing"] = figures[0].facing
    if isinstance(picture, Clip) and picture.pan:
        values["pan"] = picture.pan
    return values
