"""What was measured of long videos, as pictures: what is kept, by chunk, and frames side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..evaluate.streaming import Task
from .plots import GAP, INK, PAPER
from .streaming_table import BY_CHUNK, CHUNKED, COLOURED, wanted
from .table import Wanted

NAME = 16  # pixels for a video's words
EVERY = 4  # frames


def plot(rows: dict[Wanted, dict], path: Path) -> None:
    """What is right at the end of each chunk, and how far colours have drifted, with 95 % intervals."""
    from matplotlib.figure import Figure

    panels = {**{name: CHUNKED for name in BY_CHUNK}, "drift": CHUNKED | COLOURED}
    labels = {"colours": "hero's colours right", "scene": "scene right", "drift": "drift of colours, % of full range"}
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained", dpi=110)
    for axes, (name, settings) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for wish in wanted():
            if wish.setting in settings and wish in rows:
                values = np.array(rows[wish][f"{name}_by_chunk"], float)
                (line,) = axes.plot(values[:, 0], marker=".", label=wish.setting)
                axes.fill_between(range(len(values)), values[:, 1], values[:, 2], color=line.get_color(), alpha=0.15)
        axes.set(xlabel="chunk (0 was drawn)", ylabel=labels[name])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path)


class Sheet:
    """A picture with a row for each video: its setting and caption, and some of its frames."""

    def __init__(self, path: Path):
        self.path, self.setting = path, ""
        self._strips: list[tuple[str, np.ndarray]] = []

    def add(self, task: Task, video: Tensor) -> None:
        strip = np.hstack([(frame * 255).round().byte().numpy() for frame in video[::EVERY]])
        self._strips.append((f"{self.setting}: {task.caption}", strip))

    def save(self) -> None:
        height = max(strip.shape[0] for _, strip in self._strips) + NAME
        width = max(strip.shape[1] for _, strip in self._strips)
        sheet = Image.new("RGB", (width, len(self._strips) * height), PAPER)
        pen = ImageDraw.Draw(sheet)
        for number, (text, strip) in enumerate(self._strips):
            pen.text((GAP, number * height), text, fill=INK, font=ImageFont.load_default(11))
            sheet.paste(Image.fromarray(strip), (0, number * height + NAME))
        sheet.save(self.path)
