"""The ways to draw stories that are measured: the plain models, and Consistent Self-Attention with other inputs."""

from dataclasses import dataclass, field, replace
from itertools import chain

from storyreel.core.story.noise import DIFFERENT, PER_CHARACTER, SAME

from .pipeline import Setting

STORIES, FRAMES = 64, 4
STORIES_OF_OTHERS = 32  # of a UNet that does not ship
LONGER = {8: 24, 16: 12, 40: 6}  # frames: stories


@dataclass(frozen=True, kw_only=True)
class StorySetting(Setting):
    """attention: inputs of StoryReelConsistentAttention, None for the plain model. placed: captions name the hero's
    place, too. boxed: tokens are shared only in a box around that place."""

    count: int = STORIES
    frames: int = FRAMES
    noise: str = DIFFERENT
    attention: dict | None = field(default=None, hash=False)
    placed: bool = False
    boxed: bool = False


def csa(name: str = "", rate: float | None = None, **inputs) -> StorySetting:
    """Consistent Self-Attention with other inputs than the default's."""
    rates = {} if rate is None else {"sampling_rate": rate, "sampling_rate_fine": rate}
    return StorySetting(name=f"csa-{name}" if name else "csa", attention={"preset": "low-vram"} | rates | inputs)


PLAIN, CSA = StorySetting(name="plain"), csa()
ALL = csa("all-1", 1.0, preset="custom", blocks="all")


def with_noise(setting: StorySetting, policy: str, ending: str) -> StorySetting:
    return replace(setting, name=f"{setting.name}-noise-{ending}", noise=policy)


MAIN = (
    PLAIN,
    with_noise(PLAIN, SAME, "same"),
    with_noise(PLAIN, PER_CHARACTER, "character"),
    CSA,
    with_noise(CSA, SAME, "same"),
    ALL,
    with_noise(ALL, SAME, "same"),
)
PLACED = replace(CSA, name="csa-placed", placed=True)
FACTORS = {
    "preset": [csa(preset, preset=preset) for preset in ("mask", "paper", "custom")],
    "rate": [csa("0.25", 0.25), CSA, csa("0.75", 0.75), csa("1", 1.0)],
    "anchors": [csa("anchors-1", anchors=1), csa("anchors-2", anchors=2), CSA, csa("anchors-0", anchors=0)],
    "blocks": [
        csa("blocks-down", blocks="down"),
        csa("blocks-middle", blocks="middle"),
        CSA,
        csa("blocks-all", blocks="all"),
    ],
    "start": [
        csa("start-0", start_percent=0.0),
        CSA,
        csa("start-0.1", start_percent=0.1),
        csa("start-0.25", start_percent=0.25),
    ],
    "end": [*(csa(f"end-{end}", end_percent=end) for end in (0.5, 0.75, 0.9)), CSA],
    "rate 1, end": [csa(f"1-end-{end}", 1.0, end_percent=end) for end in (0.5, 0.75)],
    "strength": [csa("strength-0.5", strength=0.5), CSA, csa("strength-2", strength=2.0)],
    "place named": [
        replace(PLAIN, name="plain-placed", placed=True),
        PLACED,
        replace(PLACED, name="csa-boxed", boxed=True),
    ],
}
LENGTHS = (PLAIN, CSA, csa("tile-4", tile_size=4), csa("tile-8", tile_size=8))
BY_LENGTH = [
    replace(setting, frames=frames, count=count)
    for frames, count in {FRAMES: STORIES, **LONGER}.items()
    for setting in LENGTHS
]
OTHERS = [replace(setting, count=STORIES_OF_OTHERS) for setting in MAIN]

# The demo model's transformer, and the UNet on the same stories.
COMPARED = 24
BLOCKS = "double", "all", "first half", "last half", "every second"
MOVED = "beside", "reference", "dimmed"


def compared(*settings: StorySetting) -> list[StorySetting]:
    return [replace(setting, count=COMPARED) for setting in settings]


ON_UNET = compared(PLAIN, with_noise(PLAIN, SAME, "same"), CSA, ALL)
ON_TRANSFORMER = compared(PLAIN, with_noise(PLAIN, SAME, "same"), CSA, with_noise(CSA, SAME, "same"))
TRANSFORMER_FACTORS = {
    "blocks": compared(CSA, *(csa(f"blocks-{blocks.replace(' ', '-')}", blocks=blocks) for blocks in BLOCKS)),
    "positions": compared(CSA, *(csa(f"positions-{positions}", positions=positions) for positions in MOVED)),
    "all blocks, positions": compared(
        csa("blocks-all", blocks="all"),
        *(csa(f"all-{moved}", blocks="all", positions=moved) for moved in ("beside", "dimmed")),
    ),
    "same noise": [
        with_noise(setting, SAME, "same")
        for setting in compared(
            PLAIN, CSA, *(csa(f"positions-{moved}", positions=moved) for moved in ("reference", "dimmed"))
        )
    ],
    "rate": compared(csa("0.25", 0.25), CSA, csa("1", 1.0)),
    "end": compared(csa("end-0.75", end_percent=0.75), CSA),
    "strength": compared(csa("strength-0.5", strength=0.5), CSA),
}

LONG = (one for one in BY_LENGTH if one.frames > FRAMES)
SETTINGS = {  # of the whole table of each shipped network
    "unet": list(dict.fromkeys([*MAIN, *chain(*FACTORS.values()), *LONG, *ON_UNET])),
    "transformer": list(dict.fromkeys([*ON_TRANSFORMER, *chain(*TRANSFORMER_FACTORS.values())])),
}
