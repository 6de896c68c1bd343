"""What was measured, as pictures: agreement by setting and by length, and stories drawn without and with sharing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..evaluate import pictures as measure
from . import table

SHEET = ("plain", "csa")
GAP, NAME = 4, 46  # pixels
INK, PAPER, BLUE, ORANGE, GREY = "#222222", "#ffffff", "#1f6fb4", "#d9601a", "#8a8a8a"


def plot(rows: dict[table.Wanted, dict], path: Path) -> None:
    """Left, agreement on unnamed colours and named attributes by setting; right, agreement by the story's length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = [*dict.fromkeys([*table.MAIN, *(name for names in table.FACTORS.values() for name in names)])]
    shown = [name for name in settings if table.Wanted(name) in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 0.27 * len(shown) + 1.4), width_ratios=(3, 2))
    for column, colour, label in (("colours", BLUE, "unnamed colours agree"), ("named", ORANGE, "named looks right")):
        found = [rows[table.Wanted(name)] for name in shown]
        centre = np.array([row[column] for row in found])
        reach = [centre - [row[f"{column}_low"] for row in found], [row[f"{column}_high"] for row in found] - centre]
        left.errorbar(centre, range(len(shown)), xerr=reach, fmt="o", ms=4, color=colour, label=label, lw=1.2)
    left.axvline(1 / 6, color=GREY, lw=0.8, ls=":")
    left.set(yticks=range(len(shown)), yticklabels=shown, xlim=(0, 1), xlabel="share, 95 % interval (dotted: chance)")
    left.invert_yaxis()
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2, frameon=False)
    stories = {table.FRAMES: table.STORIES, **table.LONGER}
    for name, shift in zip(table.LENGTHS, (0.97, 0.99, 1.01, 1.03), strict=True):
        found = [(frames, rows.get(table.Wanted(name, count, frames))) for frames, count in stories.items()]
        found = [(frames * shift, row) for frames, row in found if row and row["colours"] is not None]
        if found:
            at, centre = [x for x, _ in found], np.array([row["colours"] for _, row in found])
            reach = [centre - [r["colours_low"] for _, r in found], [r["colours_high"] for _, r in found] - centre]
            right.errorbar(at, centre, yerr=reach, fmt="o-", ms=4, lw=1.2, label=name)
    right.set(xscale="log", xticks=list(stories), xticklabels=[str(frames) for frames in stories], ylim=(0, 1))
    right.set(xlabel="pictures of a story", ylabel="unnamed colours agree")
    right.minorticks_off()
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def contact_sheet(studio: measure.Studio, seed: int, path: Path, stories: int = 6) -> None:
    """Stories without sharing above, with the default below: the same prompts, the same noise. Two stories a row."""
    tile = measure.world.SIZE
    strip = table.FRAMES * (tile + GAP)
    width, height = strip + 3 * GAP, NAME + len(SHEET) * (tile + GAP) + 3 * GAP
    sheet = Image.new("RGB", (2 * width, (stories + 1) // 2 * height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index in range(stories):
        task = measure.make_task(seed, index, table.FRAMES)
        x, y = index % 2 * width + GAP, index // 2 * height + GAP
        pen.multiline_text((x, y), _captions(task, strip, pen), fill=INK, font=ImageFont.load_default(11), spacing=2)
        for line, name in enumerate(SHEET):
            pictures = studio.draw(measure.read_setting(name), task)
            for frame, picture in enumerate(pictures):
                place = x + frame * (tile + GAP), y + NAME + line * (tile + GAP)
                sheet.paste(Image.fromarray(picture), place)
    sheet.save(path, quality=88)


def _captions(task: measure.Task, width: int, pen: ImageDraw.ImageDraw) -> str:
    """What the story names: its hero, then its frames, in lines of `width` pixels."""
    hero = task.story.characters[0].description
    words = f"{hero}: " + "; ".join(measure.captions.describe_scene(picture, task.named) for picture in task.pictures)
    font = ImageFont.load_default(11)
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
