"""Plot of a training."""

import textwrap
from collections.abc import Sequence

from torch import Tensor

from ..plot import chart, new_figure, picture_of


@chart
def draw(log: Sequence[dict], level: float, title: str) -> Tensor:
    """IMAGE [1, H, W, 3]: the loss, and the error on held-out clips, with interpolation's error at `level`.

    log: rows of step, loss, mse.
    """
    figure = new_figure(10.0, 4.2)
    training, validation = figure.subplots(1, 2)
    steps = [row["step"] for row in log]
    training.plot(steps, [row["loss"] for row in log])
    training.set_ylabel("loss on training clips")
    validation.plot(steps, [row["mse"] for row in log], label="predicted")
    validation.axhline(level, color="tab:red", linestyle="--", label="interpolation")
    validation.set_ylabel("squared error on held-out clips")
    validation.legend()
    for axes in (training, validation):
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.suptitle(textwrap.fill(title, 130), fontsize=9)
    return picture_of(figure)
