"""Charts as pictures."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DPI = 110


def new_figure(width: float, height: float):
    """An empty figure, in inches. Raises ModuleNotFoundError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Charts need matplotlib, which is not installed: pip install matplotlib, with ComfyUI's Python."
        ) from None
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def picture_of(figure) -> Tensor:
    """IMAGE [1, H, W, 3] of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), np.float32) / 255)[None]


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], x: str, y: str) -> Tensor:
    """IMAGE [1, H, W, 3]: a group of bars for each label, one bar a series. None leaves its place empty.

    Raises ModuleNotFoundError if matplotlib is not installed.
    """
    figure = new_figure(max(5.0, 1.0 + 0.5 * len(labels)), 3.6)
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, [np.nan if value is None else value for value in values], width, label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center")  # one under the other: side by side they may be wider than the chart
    return picture_of(figure)
