"""A hero: a coat with boots and mittens, a round face with large eyes, a scarf, a hat.

Lengths are in heights of the hero; x goes right and y down, from the ground between its feet.
"""

import math

import numpy as np

from .attributes import COLORS, Figure, Look
from .canvas import INK, Brush, Canvas, Color, unit_oval
from .hats import draw_hat
from .pose import Pose

SKIN, CHEEK, WHITE, TONGUE = (255, 228, 196), (250, 168, 150), (255, 255, 255), (226, 84, 92)
COVER = (150, 96, 64)
HIP, CHEST, NECK, CROWN = -0.15, -0.30, -0.45, -0.62  # heights of hip, coat's center, neck, head's center, standing
SEAT_DROP = 0.115
HEAD = (0.192, 0.178)


def draw_hero(canvas: Canvas, look: Look, figure: Figure, pose: Pose, x: float, ground: float, owner: int):
    """Draw a hero standing at (x, ground). Returns the center of its head in the picture, [2]."""
    size = figure.height
    feet = Brush(canvas, owner, np.array([[size, 0, x], [0, size, ground - pose.air * size]]))
    feet = feet.within(0, 0, pose.lean, 1 + 0.09 * pose.squash, 1 - 0.14 * pose.squash)
    body = feet.within(0, SEAT_DROP * pose.seat)
    head = body.within(0.025 * pose.yaw, NECK + 0.02 * pose.pitch, pose.tilt).within(0, CROWN - NECK)
    coat, hat, scarf = (COLORS[name] for name in (look.color, look.hat_color, look.scarf_color))

    seated = pose.seat > 0.5
    if not seated:
        _legs(feet, pose, coat, hat)
    _arms(body, look, pose, coat, scarf, behind=True)
    _coat(body, look.shape, coat, pose.yaw)
    if seated:
        _legs(feet, pose, coat, hat)
    reading = figure.action == "reading"
    if not reading:
        _arms(body, look, pose, coat, scarf, behind=False)
    _scarf(body, scarf, pose)
    _face(head, pose)
    draw_hat(head, look.hat, hat, pose)
    if reading:
        _book(body, pose.yaw)
        _arms(body, look, pose, coat, scarf, behind=False)
    if figure.action == "sleeping":
        _snore(head, figure.hand)
    return head.at(0, 0)


def darker(color: Color, part: float = 0.8) -> Color:
    red, green, blue = (round(value * part) for value in color)
    return red, green, blue


def _legs(feet: Brush, pose: Pose, coat: Color, boot: Color):
    hip = HIP + SEAT_DROP * pose.seat
    apart = 1 - 0.6 * abs(pose.yaw) * (1 - pose.seat)  # seen from the side, one leg stands before the other
    legs = [(-1, pose.left_step, pose.left_lift), (1, pose.right_step, pose.right_lift)]
    for side, step, lift in sorted(legs, key=lambda leg: -leg[0] * pose.yaw):
        x = side * (0.075 * apart + 0.055 * pose.seat) + step + 0.08 * pose.seat * pose.yaw
        y = -0.04 - lift - 0.02 * pose.seat
        knee = (0.5 * (side * 0.07 * apart + x) + 0.3 * lift * np.sign(step), 0.5 * (hip + y))
        feet.limb([(side * 0.07 * apart, hip), knee, (x, y - 0.02)], 0.085, darker(coat))
        toe = 0.03 * pose.yaw * (1 - pose.seat)
        # Of one who sits, the soles are seen.
        feet.oval(x + toe, y, 0.07 - 0.012 * pose.seat, 0.047 + 0.02 * pose.seat, boot, angle=9 * side * pose.seat)


def _coat(body: Brush, shape: str, color: Color, yaw: float):
    center = body.within(0, CHEST)
    match shape:
        case "round":
            center.shape(unit_oval(2.1) * (0.205, 0.17), color)
        case "slim":
            center.shape(unit_oval(2.8) * (0.105, 0.178), color)
        case "square":
            center.shape(unit_oval(6.0, 36) * (0.16, 0.165), color)
            for side in (-1, 1):
                pocket = np.array([(-0.035, 0.03), (0.035, 0.03), (0.035, 0.1), (-0.035, 0.1)])
                center.shape(pocket + (0.095 * side + 0.03 * yaw, 0), darker(color), ink=0.5)
        case "flared":
            outline = [(-0.07, -0.18), (0.07, -0.18), (0.14, 0.02), (0.225, 0.15), (0.19, 0.175)]
            outline += [(0.1, 0.16), (0, 0.178), (-0.1, 0.16), (-0.19, 0.175), (-0.225, 0.15), (-0.14, 0.02)]
            center.shape(np.array(outline), color)
            hem = [(-0.206, 0.1), (-0.1, 0.085), (0, 0.1), (0.1, 0.085), (0.206, 0.1)]
            hem += [(0.222, 0.14), (0.1, 0.125), (0, 0.14), (-0.1, 0.125), (-0.222, 0.14)]
            center.shape(np.array(hem) * (0.93, 1), WHITE, ink=0)
    for y in (-0.035, 0.045):
        center.oval(0.085 * yaw, y, 0.018, 0.018, WHITE, ink=0.5)


def _shoulder(shape: str) -> float:
    return {"round": 0.135, "slim": 0.085, "square": 0.135, "flared": 0.085}[shape]


def _arms(body: Brush, look: Look, pose: Pose, coat: Color, mitten: Color, behind: bool):
    """Both arms, or of one who looks to a side the near and the far one, each in its turn."""
    for side, angle, elbow in (
        (-1, pose.left_arm, pose.left_elbow),
        (1, pose.right_arm, pose.right_elbow),
    ):
        is_far = side * pose.yaw > 0.4
        if is_far != behind:
            continue
        shoulder = np.array([side * _shoulder(look.shape) * (1 - 0.15 * abs(pose.yaw)), -0.395])
        bend = shoulder + 0.14 * _hanging(side, angle)
        hand = bend + 0.14 * _hanging(side, angle + elbow)
        body.limb([tuple(shoulder), tuple(bend), tuple(hand)], 0.078, darker(coat, 0.9))
        body.oval(hand[0], hand[1], 0.054, 0.054, mitten)


def _hanging(side: int, angle: float) -> np.ndarray:
    return np.array([side * math.sin(math.radians(angle)), math.cos(math.radians(angle))])


def _scarf(body: Brush, color: Color, pose: Pose):
    side = -1 if pose.yaw > 0.4 else 1
    flutter = 60 * min(pose.air / 0.2, 1.0) - 1.4 * pose.lean * side
    tail = body.within(0.085 * side, NECK + 0.02, -side * (14 + flutter))
    tail.shape(np.array([(-0.04, 0), (0.04, 0), (0.05, 0.17), (-0.05, 0.17)]), color)
    tail.shape(np.array([(-0.046, 0.115), (0.046, 0.115), (0.048, 0.14), (-0.048, 0.14)]), WHITE, ink=0)
    body.shape(unit_oval(2.6) * (0.15, 0.056) + (0.01 * pose.yaw, NECK + 0.005), color)


def _face(head: Brush, pose: Pose):
    head.oval(0, 0, *HEAD, SKIN)
    x, y = 0.078 * pose.yaw, 0.03 + 0.035 * pose.pitch
    spread = 0.078 * (1 - 0.16 * abs(pose.yaw))
    for side in (-1, 1):
        # The side that turns away from the viewer is seen foreshortened.
        narrow = 1 - 0.3 * max(0.0, side * pose.yaw)
        eye = x + side * spread
        head.oval(eye + 0.03 * side, y + 0.06, 0.034 * narrow, 0.023, CHEEK, ink=0)
        if pose.lids > 0.75:
            head.smile(eye, y - 0.012, 0.04 * narrow, 0.028, 0.017, INK)
            continue
        height = 0.052 * (1 - pose.lids)
        head.oval(eye, y - 0.012, 0.033 * narrow, height, INK, ink=0)
        if pose.lids < 0.4:
            head.oval(eye + 0.011, y - 0.03, 0.013, 0.016 * (1 - pose.lids), WHITE, ink=0)
    _mouth(head, x * 1.1, y + 0.075, pose.mouth)


def _mouth(head: Brush, x: float, y: float, opened: float):
    if opened > 0.3:
        head.shape(_bowl(0.045, 0.055 * opened) + (x, y - 0.012), TONGUE, ink=0.8)
    else:
        head.smile(x, y - 0.01, 0.04, 0.026, 0.014, INK)


def _bowl(width: float, depth: float) -> np.ndarray:
    turn = np.linspace(0, np.pi, 10)
    return np.column_stack([width * np.cos(turn), depth * np.sin(turn)])


def _book(body: Brush, yaw: float):
    book = body.within(0.05 * yaw, CHEST + 0.02)
    for side in (-1, 1):
        book.shape(np.array([(0, 0.095), (side * 0.18, 0.065), (side * 0.18, -0.1), (0, -0.07)]), COVER)
        book.shape(np.array([(0, 0.065), (side * 0.15, 0.038), (side * 0.15, -0.095), (0, -0.07)]), WHITE, ink=0.5)
        for line in (-0.035, 0.0):
            rule = np.array([(0.035, line + 0.01), (0.12, line - 0.005), (0.12, line + 0.007), (0.035, line + 0.022)])
            book.shape(rule * (side, 1), (176, 176, 190), ink=0)


def _snore(head: Brush, side: int):
    """Two letters Z that rise from a sleeper."""
    for x, y, size in ((0.255, -0.1, 0.075), (0.33, -0.25, 0.105)):
        half = np.array([(-1, -0.5), (-1, -1), (1, -1), (1, -0.5), (-0.2, 0.5)])
        letter = np.concatenate([half, -half]) * (0.45 * size, 0.5 * size)
        head.shape(letter + (-side * x, y), WHITE)
