"""Poses: the joints of a hero, how to stand in the ways that pictures show, and how to pass from one to another."""

from dataclasses import astuple, dataclass, replace

import numpy as np

from .attributes import FACINGS, Figure


@dataclass(frozen=True)
class Pose:
    """Joints of a hero. "Left" is the picture's left. Everything may lie between the values that are named here.

    yaw: -1 looks left, 1 right. pitch: 1 looks down. tilt, lean: degrees clockwise of head and of all.
    lids: 1 closed. mouth: 0 smiles, 1 is open.
    left_arm, right_arm: degrees outwards from hanging. left_elbow, right_elbow: further degrees of the forearm.
    left_step, right_step: how far a foot stands from its place, to the right, in heights of the hero.
    left_lift, right_lift: how far it is raised. seat: 1 sits on the ground. air: height over the ground.
    squash: 1 is pressed down as far as it goes, -1 stretched.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    tilt: float = 0.0
    lean: float = 0.0
    lids: float = 0.0
    mouth: float = 0.0
    left_arm: float = 28.0
    left_elbow: float = -4.0
    right_arm: float = 28.0
    right_elbow: float = -4.0
    left_step: float = 0.0
    left_lift: float = 0.0
    right_step: float = 0.0
    right_lift: float = 0.0
    seat: float = 0.0
    air: float = 0.0
    squash: float = 0.0


REST = Pose()
SEATED = Pose(seat=1.0, left_arm=42, right_arm=42)
CHEERING = Pose(mouth=1, left_arm=122, left_elbow=22, right_arm=122, right_elbow=22)


def blend(a: Pose, b: Pose, part: float) -> Pose:
    """The pose on the way from a (part 0) to b (part 1)."""
    mixed = (1 - part) * np.array(astuple(a)) + part * np.array(astuple(b))
    return Pose(*mixed.tolist())


def raised_arm(side: int, angle: float, elbow: float, base: Pose = REST) -> Pose:
    """`base` with the arm of a side, -1 left or 1 right, at these angles."""
    if side < 0:
        return replace(base, left_arm=angle, left_elbow=elbow)
    return replace(base, right_arm=angle, right_elbow=elbow)


def stride(direction: float, swing: float, lift: float = 0.0) -> Pose:
    """Walking to a side, -1 or 1.

    swing: -1 to 1, the right foot's way forward. lift: of the right foot; negative, of the left.
    """
    step = 0.11 * swing * direction
    return Pose(
        yaw=0.9 * direction,
        lean=5 * direction,
        left_step=-step,
        right_step=step,
        left_lift=0.06 * max(0.0, -lift),
        right_lift=0.06 * max(0.0, lift),
        left_arm=30 + 24 * swing * direction,
        right_arm=30 + 24 * swing * direction,
        left_elbow=14,
        right_elbow=14,
    )


def still(figure: Figure) -> Pose:
    """The pose that a picture of this figure shows."""
    yaw = 0.85 * FACINGS[figure.facing]
    match figure.action:
        case "standing":
            pose = REST
        case "waving":
            pose = raised_arm(figure.hand, 108, 52, Pose(mouth=0.7, tilt=-4 * figure.hand))
        case "jumping":
            pose = Pose(mouth=1, left_arm=98, right_arm=98, left_elbow=10, right_elbow=10, air=0.2)
            pose = replace(pose, left_step=-0.07, right_step=0.07, left_lift=0.05, right_lift=0.05, squash=-0.3)
        case "sitting":
            pose = SEATED
        case "sleeping":
            pose = replace(SEATED, lids=1, tilt=15 * figure.hand, pitch=0.5, left_arm=24, right_arm=24)
        case "cheering":
            pose = CHEERING
        case "reading":
            pose = Pose(pitch=0.8, left_arm=48, right_arm=48, left_elbow=-92, right_elbow=-92)
        case "walking left" | "walking right":
            direction = -1 if figure.action.endswith("left") else 1
            return stride(direction, figure.hand, lift=0.5 * figure.hand)
    return replace(pose, yaw=yaw)
