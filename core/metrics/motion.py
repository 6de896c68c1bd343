"""How a video moves, pair by pair: motion aware warp error, and the deviation of the flow (see metrics)."""

import torch
from torch import Tensor

from . import reductions
from .flow import Flow
from .metric import Metric, finite


class Motion(Metric):
    """Measures by a flow, on squares of `side` pixels as the published code does. A pair counts at its second frame.

    Series: motion, the mean length of the flow in pixels of that square; warp_error.
    """

    name = "motion"

    def __init__(self, flow: Flow, called: str, side: int = reductions.MAWE_SIDE):
        super().__init__("motion", "warp_error")
        self.called, self.side = called, side
        self._flow = flow
        self._before: Tensor | None = None
        self._pairs: list[tuple[float, float, float]] = []  # error, motion, squared motion

    def update(self, frame: Tensor) -> None:
        square = reductions.mawe_frames((frame.movedim(-1, 0)[None] * 255).round(), self.side)
        if self._before is None:
            self.record(motion=None, warp_error=None)
        else:
            flow = self._flow(self._before[0], square[0])[None]
            error = reductions.warp_errors(torch.cat([self._before, square]), flow).item()
            motion = reductions.motions(flow).item()
            self.record(motion=motion, warp_error=error)
            self._pairs.append((error, motion, reductions.squared_motions(flow).item()))
        self._before = square

    def results(self) -> dict:
        errors, motion, squared = torch.tensor(self._pairs, dtype=torch.float64).T
        return {
            "flow": self.called,
            "side": self.side,
            "mawe_paper": finite(reductions.mawe_paper(errors, squared)),
            "mawe_code": finite(reductions.mawe_published(errors, motion)),
            "motion": motion.mean().item(),
            "flow_deviation": reductions.flow_deviation(motion),
        }
