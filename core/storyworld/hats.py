"""Hats, drawn from the center of the head, in heights of the hero. Each has its own outline, whatever its color."""

import numpy as np

from .canvas import Brush, Color, unit_oval
from .pose import Pose

BAND, POMPOM = (255, 248, 236), (255, 255, 255)


def draw_hat(head: Brush, kind: str, color: Color, pose: Pose):
    hat = head.within(0.016 * pose.yaw, -0.105 + 0.02 * pose.pitch, 3 * pose.yaw)
    {"top": _top, "pointed": _pointed, "woolly": _woolly, "wide": _wide}[kind](hat, color)


def _top(hat: Brush, color: Color):
    hat.shape(unit_oval(2.6) * (0.2, 0.033), color)
    hat.shape(np.array([(-0.118, 0.005), (-0.13, -0.235), (0.13, -0.235), (0.118, 0.005)]), color)
    hat.shape(np.array([(-0.118, -0.012), (-0.121, -0.068), (0.121, -0.068), (0.118, -0.012)]), BAND, ink=0)


def _pointed(hat: Brush, color: Color):
    cone = [(-0.165, 0.02), (-0.06, -0.16), (0.025, -0.315), (0.075, -0.16), (0.165, 0.02), (0, 0.042)]
    hat.shape(np.array(cone), color)
    for x, y in ((-0.055, -0.035), (0.06, -0.045), (0.005, -0.14)):
        hat.oval(x, y, 0.021, 0.021, BAND, ink=0)


def _woolly(hat: Brush, color: Color):
    hat.oval(0, -0.19, 0.056, 0.056, POMPOM)
    turn = np.linspace(np.pi, 2 * np.pi, 16)
    hat.shape(np.column_stack([0.172 * np.cos(turn), 0.165 * np.sin(turn)]), color)
    hat.shape(unit_oval(4.0) * (0.186, 0.038) + (0, 0.0), BAND)


def _wide(hat: Brush, color: Color):
    hat.shape(unit_oval(2.2) * (0.29, 0.05) + (0, -0.005), color)
    turn = np.linspace(np.pi, 2 * np.pi, 16)
    hat.shape(np.column_stack([0.15 * np.cos(turn), 0.02 + 0.16 * np.sin(turn)]), color)
    hat.shape(np.array([(-0.148, -0.02), (-0.138, -0.06), (0.138, -0.06), (0.148, -0.02)]), BAND, ink=0)
