"""Charts as images, drawn with matplotlib. Without matplotlib an image with a message replaces the chart: its numbers
are in a report as well, and a run should not fail for a chart."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

DPI = 110
MISSING = "Charts need matplotlib, which is not installed: pip install matplotlib, with ComfyUI's Python."


def chart(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a function that draws a chart with matplotlib. Without it, an image with a message is returned."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Tensor:
        try:
            return draw(*args, **kwargs)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "matplotlib":
                raise
        return _written(MISSING)

    return drawn


def missing() -> str:
    """A message if matplotlib is not installed, or ""."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        return MISSING
    return ""


def new_figure(width: float, height: float):
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def _written(sentence: str) -> Tensor:
    """IMAGE [1, H, W, 3]: a sentence, black on white."""
    font = ImageFont.load_default(20)
    left, top, right, bottom = (round(side) for side in font.getbbox(sentence))
    image = Image.new("RGB", (right + left + 40, bottom + top + 40), "white")
    ImageDraw.Draw(image).text((20, 20), sentence, "black", font)
    return _as_image(image)


def _as_image(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)[None]


def picture_of(figure) -> Tensor:
    """IMAGE [1, H, W, 3] of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return _as_image(Image.open(file))


@chart
def bars(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], x: str, y: str) -> Tensor:
    """IMAGE [1, H, W, 3]: a group of bars for each label, one bar a series. None leaves its place empty."""
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
