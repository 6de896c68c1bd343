"""What the video model makes, as pictures: every gentle action of one hero, moving, and frames side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..evaluate import video as measure
from ..train.clips import FPS
from .plots import GAP, INK, PAPER

NAME = 16  # pixels for a clip's words


def moving_picture(studio: measure.Studio, seed: int, path: Path, columns: int = 5) -> None:
    """An animated WebP: one start picture, and every gentle caption beside the others."""
    setting = measure.read_setting("animate")
    tasks = measure.make_tasks(setting, seed, 0)
    clips = [studio.make(setting, task) for task in tasks]
    tile = measure.world.SIZE + GAP
    rows = -(-len(tasks) // columns)
    frames = []
    for time in range(measure.FRAMES):
        frame = Image.new("RGB", (columns * tile + GAP, rows * (tile + NAME) + GAP), PAPER)
        pen = ImageDraw.Draw(frame)
        for number, (task, clip) in enumerate(zip(tasks, clips, strict=True)):
            x, y = GAP + number % columns * tile, GAP + number // columns * (tile + NAME)
            frame.paste(Image.fromarray(clip[time]), (x, y))
            words = task.clip.figures[0].action
            pen.text((x, y + tile - GAP), words, fill=INK, font=ImageFont.load_default(11))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0, quality=80)


def side_by_side(tasks: list[measure.Task], clips: list[np.ndarray], path: Path, every: int = 2) -> None:
    """A picture with a row for each clip: its caption, and every second of its frames."""
    strips = [np.hstack(clip[::every]) for clip in clips]
    height, width = strips[0].shape[:2]
    sheet = Image.new("RGB", (width, len(strips) * (height + NAME)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (task, strip) in enumerate(zip(tasks, strips, strict=True)):
        y = number * (height + NAME)
        pen.text((GAP, y), task.caption, fill=INK, font=ImageFont.load_default(11))
        sheet.paste(Image.fromarray(strip), (0, y + NAME))
    sheet.save(path)
