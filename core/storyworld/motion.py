"""Motion: what each action of a clip does to a hero over time.

Time counts in frames, about eight a second. Every action repeats, so that a clip of any length goes on moving, and
moves on curves, so that no frame is the mean of its neighbors in time. A clip begins in a pose that does not depend on
the action: until the caption is read, frame 0 tells nothing.
"""

import math
from dataclasses import replace
from random import Random

from .attributes import FACINGS, Clip, Figure
from .pose import CHEERING, REST, SEATED, Pose, blend, raised_arm, stride

GATHER = 4  # frames from the first pose into the action's own motion
TURNED = 0.85  # the yaw of a hero that looks left or right
EDGE = 0.18  # how near to an edge walking goes


def place_at(clip: Clip, number: int, time: float) -> tuple[Pose, float, float]:
    """The pose of figure `number` at a time, and where it stands: x and ground, in picture widths and heights."""
    figure = clip.figures[number]
    pose, dx, dy = _acting(figure, time * clip.tempo)
    gathered = _ease(time * clip.tempo / GATHER)
    start = _start(figure, clip.starts[number], Random(f"{clip.jitter}/{number}"))
    return blend(start, pose, gathered), figure.x + dx, figure.ground + dy


def view_at(clip: Clip, time: float) -> float:
    """How far the view stands to the right of its first place, in picture widths: slowly there, and back."""
    if not clip.pan:
        return 0.0
    return _side(clip.pan) * 0.18 * _there_and_back(time * clip.tempo, 40)


def _start(figure: Figure, name: str, rng: Random) -> Pose:
    pose = {
        "standing": REST,
        "sitting": SEATED,
        "cheering": replace(CHEERING, mouth=0.0),
        "left arm up": raised_arm(-1, 116, 26),
        "right arm up": raised_arm(1, 116, 26),
        "striding left": replace(stride(-1, 0.9), lean=0.0),
        "striding right": replace(stride(1, 0.9), lean=0.0),
    }[name]
    return replace(
        pose,
        yaw=TURNED * FACINGS[figure.facing] + rng.uniform(-0.1, 0.1),
        tilt=rng.uniform(-6, 6),
        left_arm=pose.left_arm + rng.uniform(-15, 15),
        right_arm=pose.right_arm + rng.uniform(-15, 15),
    )


def _acting(figure: Figure, time: float) -> tuple[Pose, float, float]:
    """The action's own pose, and how far it has carried the hero from its first place."""
    kind, _, way = figure.action.partition(" ")
    side = _side(way) if way else 0
    facing = TURNED * FACINGS[figure.facing]
    breath = math.sin(math.tau * time / 16)
    calm = replace(REST, yaw=facing, squash=0.12 * breath, left_arm=28 + 3 * breath, right_arm=28 + 3 * breath)
    match kind:
        case "standing":
            return calm, 0, 0
        case "waving":
            swing = math.sin(math.tau * time / 7)
            pose = raised_arm(figure.hand, 106 + 8 * swing, 46 + 38 * swing, replace(calm, mouth=0.7))
            return replace(pose, tilt=-4 * figure.hand), 0, 0
        case "sitting":
            swing = math.sin(math.tau * time / 12)
            pose = replace(SEATED, yaw=facing, tilt=7 * swing, left_lift=0.03 * max(0, swing))
            return replace(pose, right_lift=0.03 * max(0, -swing), squash=0.1 * abs(swing)), 0, 0
        case "nodding":
            nod = _there_and_back(time, 9)
            return replace(calm, pitch=1.5 * nod, tilt=3 * nod), 0, 0
        case "blinking":
            return replace(calm, lids=max(0.0, _clamp(0.4 + 1.6 * math.cos(math.tau * (time - 6) / 9)))), 0, 0
        case "hopping":
            return _bounce(replace(calm, mouth=0.6), time, 10, 0.15), 0, 0
        case "turning":
            return replace(calm, yaw=side * (1.5 * _there_and_back(time, 24) - 0.3)), 0, 0
        case "stepping":
            carried = _there_and_back(time, 32)
            pose = stride(side, 0.5 * math.sin(math.tau * time / 8), math.cos(math.tau * time / 8))
            return replace(pose, yaw=facing, lean=2 * side), side * 0.09 * carried, 0.012 * math.sin(math.pi * carried)
        case "walking":
            return _walk(figure, side, time)
        case "leaping":
            return _leap(figure, side, time)
        case _:
            raise ValueError(f"{figure.action!r} is no action.")


def _bounce(pose: Pose, time: float, period: float, height: float) -> Pose:
    """Jumps on the spot: a crouch, then a parabola."""
    part = time / period % 1
    if part < 0.3:
        return replace(pose, squash=math.sin(math.pi * part / 0.3))
    flight = (part - 0.3) / 0.7
    up = 4 * flight * (1 - flight)
    arms = {"left_arm": pose.left_arm + 70 * up, "right_arm": pose.right_arm + 70 * up}
    return replace(pose, air=height * up, squash=-0.4 * up, left_lift=0.04 * up, right_lift=0.03 * up, **arms)


def _walk(figure: Figure, side: int, time: float) -> tuple[Pose, float, float]:
    """To the edge on a bow over the ground, and back."""
    period = 36
    heading = side * _clamp(3 * math.sin(math.tau * time / period))
    carried = _there_and_back(time, period)
    step = math.sin(math.tau * time / 8)
    pose = stride(heading, step, lift=math.cos(math.tau * time / 8))
    return replace(pose, air=0.025 * step**2), carried * _way(figure, side), 0.03 * math.sin(math.pi * carried)


def _leap(figure: Figure, side: int, time: float) -> tuple[Pose, float, float]:
    """One high arc to the side, a rest, and the same way back."""
    period = 32
    part = time % period / (period / 2)
    heading = side * _clamp(3 * math.sin(math.pi * part))
    flight = min(max((part % 1 - 0.25) / 0.6, 0.0), 1.0)
    up = 4 * flight * (1 - flight)
    before, after = min(part % 1 / 0.25, 1.0), max((part % 1 - 0.85) / 0.15, 0.0)
    crouch = math.sin(math.pi * before) + 0.6 * math.sin(math.pi * after)
    pose = replace(
        REST,
        yaw=0.6 * heading,
        mouth=up,
        left_arm=28 + 85 * up,
        right_arm=28 + 85 * up,
        left_lift=0.06 * up,
        right_lift=0.06 * up,
        lean=10 * heading * up * math.cos(math.pi * flight),
        air=0.26 * up,
        squash=crouch - 0.4 * up,
    )
    carried = flight if part < 1 else 1 - flight
    return pose, carried * 0.75 * _way(figure, side), 0.0


def _way(figure: Figure, side: int) -> float:
    return (EDGE if side < 0 else 1 - EDGE) - figure.x


def _side(way: str) -> int:
    return -1 if way == "left" else 1


def _clamp(value: float) -> float:
    return max(-1.0, min(1.0, value))


def _ease(part: float) -> float:
    part = min(part, 1.0)
    return part * part * (3 - 2 * part)


def _there_and_back(time: float, period: float) -> float:
    """0 at the beginning, 1 after half a period, 0 again after a whole one, slow at both ends."""
    return 0.5 - 0.5 * math.cos(math.tau * time / period)
