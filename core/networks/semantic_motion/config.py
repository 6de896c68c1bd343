"""The configuration of a motion predictor, from the metadata of its file; the weights show their sizes only."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from ...text import short
from ...weights.stated import Text, read_stated, switch

METADATA = "storyreel_motion_predictor"
TRAINING = "storyreel_motion_training"  # how it was trained, and its validation result
SPACE = "space"  # token_space in the metadata of files from before 0.1.0
MAX_SIZE = 2**15
MAX_BLOCKS = 256


@dataclass(frozen=True)
class PredictorConfig:
    """The defaults are StoryDiffusion's, but for the heads: 1024 is no multiple of its 12.

    token_space: see `core.motion.trajectory.Trajectory`. tokens, token_width: of a frame. frames: rows of the position
    table, the most that it can predict. ends: 2, or 1 if it was trained with the start image only. keyframes: whether
    it was trained with images between start and end.
    """

    token_space: str = "ip-plus"
    tokens: int = 16
    token_width: int = 768
    width: int = 1024
    depth: int = 8
    heads: int = 16
    frames: int = 64
    ends: int = 2
    keyframes: bool = False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            most = MAX_BLOCKS if field.name == "depth" else MAX_SIZE
            fits = 1 <= value <= most if type(value) is int else type(value) is not str or value.isprintable()
            if type(value) is not field.type or not fits:
                expected = {int: f"a number of 1 and more, up to {most},", str: "a name", bool: "true or false"}
                found = short(repr(value)) if isinstance(value, str) else short(value)
                raise ValueError(f"a motion predictor's {field.name} is {found}; {expected[field.type]} is expected.")
        if self.width % self.heads:
            raise ValueError(
                f"a motion predictor's width is {self.width}; a multiple of {self.heads} heads is expected."
            )
        if self.ends > 2:
            raise ValueError(f"a motion predictor's ends are {self.ends}; 1 or 2 is expected.")


def write_config(config: PredictorConfig) -> dict[str, str]:
    """Metadata of a file."""
    return {METADATA: json.dumps(asdict(config))}


def read_config(metadata: Mapping[str, str] | None) -> PredictorConfig:
    """The configuration that a file states. Raises ValueError if it states none, or a value out of range."""
    if not metadata or METADATA not in metadata:
        raise ValueError(f"it states no {METADATA} in its metadata.")
    stated = read_stated(METADATA, metadata[METADATA], _by_name)
    if SPACE in stated:
        stated["token_space"] = stated.pop(SPACE)
    if unknown := sorted(stated.keys() - {field.name for field in fields(PredictorConfig)}):
        listed = ", ".join(map(short, unknown[:3]))
        raise ValueError(f"it states {listed}, which this version does not know.")
    return PredictorConfig(**stated)


def read_training(metadata: Mapping[str, str] | None) -> dict:
    """What a file states about its training; empty if nothing. Raises ValueError for values of another type."""
    stated = read_stated(TRAINING, (metadata or {}).get(TRAINING, "{}"), _by_name)
    for name, read in (("tokens_of", Text()), ("beats_interpolation", switch)):
        if name in stated:
            read(f"{TRAINING}.{name}", stated[name])
    return stated


def _by_name(name: str, value) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is no list of sizes by name.")
    return value
