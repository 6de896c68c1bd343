"""Plots of rows and of training logs, and sheets of frames with their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, LINE = 4, 14  # pixels
INK, PAPER, GRAY = "#222222", "#ffffff", "#8a8a8a"


@dataclass
class Panel:
    """lines: {label: (x, values)}, values as [n], or [n, 3] with the ends of intervals. names: of the rows of a panel
    whose values lie from left to right. axes: settings of matplotlib's axes. chance: where a dotted line is drawn."""

    lines: Mapping[str, tuple[Sequence[float], Sequence]]
    names: Sequence[str] = ()
    axes: dict = field(default_factory=dict)
    chance: float | None = None


def plot(panels: Sequence[Panel], path: Path, height: float = 3.4) -> None:
    """Panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), height), layout="constrained", dpi=110)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for label, (x, values) in panel.lines.items():
            values = np.array(values, float)
            if values.ndim == 1:
                axes.plot(x, values, label=label)
                continue
            mean, low, high = values.T
            reach = mean - low, high - mean
            style = dict(ms=4, lw=1.2, label=label)
            if panel.names:
                axes.errorbar(mean, x, xerr=reach, fmt="o", **style)
            else:
                axes.errorbar(x, mean, yerr=reach, fmt="o-", **style)
        if panel.names:
            axes.set(yticks=range(len(panel.names)), yticklabels=panel.names)
            axes.invert_yaxis()
        if panel.chance is not None:
            axes.axvline(panel.chance, color=GRAY, lw=0.8, ls=":")
        axes.set(**panel.axes)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel.lines) > 1:
            axes.legend(fontsize=7, frameon=False)
    figure.savefig(path)


def sheet(entries: Sequence[tuple[str, np.ndarray]], columns: int = 1) -> Image.Image:
    """Pictures uint8 [H, W, 3] in columns, each below its caption."""
    width = max(picture.shape[1] for _, picture in entries) + GAP
    texts = [textwrap.wrap(text, max(1, width // 6)) for text, _ in entries]
    above = LINE * max(map(len, texts)) + GAP
    height = max(picture.shape[0] for _, picture in entries) + above
    whole = Image.new("RGB", (columns * width, -(-len(entries) // columns) * height), PAPER)
    pen = ImageDraw.Draw(whole)
    for number, (lines, (_, picture)) in enumerate(zip(texts, entries, strict=True)):
        x, y = number % columns * width, number // columns * height
        pen.multiline_text((x + GAP, y), "\n".join(lines), fill=INK, font=ImageFont.load_default(11), spacing=2)
        whole.paste(Image.fromarray(picture), (x, y + above))
    return whole


def strip(frames: np.ndarray, count: int = 8) -> np.ndarray:
    """So many of the frames uint8 [T, H, W, 3], from left to right."""
    return np.hstack(frames[:: max(1, len(frames) // count)])


def moving_sheet(entries: Sequence[tuple[str, np.ndarray]], columns: int, fps: int, path: Path) -> None:
    """An animated WebP of clips uint8 [T, H, W, 3], each below its caption."""
    frames = [sheet([(text, clip[time]) for text, clip in entries], columns) for time in range(len(entries[0][1]))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0, quality=80)
