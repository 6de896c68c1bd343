"""How a training went, as a picture."""

import textwrap
from collections.abc import Sequence

from torch import Tensor

from ..plot import chart, new_figure, picture_of


@chart
def draw(log: Sequence[dict], level: float, title: str) -> Tensor:
    """IMAGE [1, H, W, 3]: the loss, and beside it the held-out error against interpolation's, which is `level`.

    log: rows of step, loss, mse.
    """
    figure = new_figure(10.0, 4.2)
    learning, held_out = figure.subplots(1, 2)
    steps = [row["step"] for row in log]
    learning.plot(steps, [row["loss"] for row in log])
    learning.set_ylabel("loss on training clips")
    held_out.plot(steps, [row["mse"] for row in log], label="predicted")
    held_out.axhline(level, color="tab:red", linestyle="--", label="interpolation")
    held_out.set_ylabel("squared error on held-out clips")
    held_out.legend()
    for axes in (learning, held_out):
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.suptitle(textwrap.fill(title, 130), fontsize=9)
    return picture_of(figure)
