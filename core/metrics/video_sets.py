"""How far two sets of clips lie apart in the features of a network: FVD and KVD (Unterthiner et al., arXiv 1812.01717).

Papers compare thousands of clips. Here a set is what one video holds: its windows of 16 frames, one behind the other,
none overlapping, the frames that remain left out. Both figures depend on how many clips there are, FVD strongly.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .metric import Metric

WINDOW = 16  # frames of a clip
LEAST = 2  # clips that a set needs: a single one does not vary


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with mean and covariance (by n - 1) of rows [N, d] and [M, d].

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), in float64. With A = X'X and B = Y'Y, where X and Y are the centred
    rows over sqrt(n - 1), the trace of the root is the sum of the singular values of X Y': no d x d matrix, and no root
    of a singular one, however few rows there are.
    """
    a, b = a.double(), b.double()
    x, y = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    root = torch.linalg.svdvals(x @ y.T).sum()
    apart = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * root
    return max(apart.item(), 0.0)  # rounding may put equal sets a little below


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of rows [N, d] and [M, d] by the kernel (u.v / d + 1)^3, unbiased, in float64.

    Being unbiased it falls below 0 about as often as above where the two sets do not differ. The kernel is KID's, which
    programs that print KVD use; the paper does not divide by d.
    """
    a, b = a.double(), b.double()

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3

    def within(rows: Tensor) -> Tensor:
        """The mean over pairs of different rows."""
        values = kernel(rows, rows)
        return (values.sum() - values.trace()) / (len(rows) * (len(rows) - 1))

    return (within(a) + within(b) - 2 * kernel(a, b).mean()).item()


class Windows:
    """Collects the features of a video's windows; frames are held until their window is full.

    features: [1, 3, 16, H, W] from -1 to 1 -> [1, d].
    """

    def __init__(self, features: Callable[[Tensor], Tensor]):
        self.rows: list[Tensor] = []
        self._features = features
        self._frames: list[Tensor] = []

    def update(self, frame: Tensor) -> None:
        """The next frame, [H, W, 3] from 0 to 1."""
        self._frames.append(frame)
        if len(self._frames) == WINDOW:
            clip = torch.stack(self._frames).permute(3, 0, 1, 2)[None] * 2 - 1
            self._frames = []
            self.rows.append(self._features(clip)[0].double().cpu())


class VideoSets(Metric):
    """FVD and KVD of a video's windows against those of a reference, which is read after the video.

    called: what gives the features. Where a side has too few windows, that is told as not computed.
    """

    name = "sets"

    def __init__(self, features: Callable[[Tensor], Tensor], reference: Iterable[Tensor], called: str):
        super().__init__()
        self.called = called
        self._here, self._there = Windows(features), Windows(features)
        self._reference = reference

    def update(self, frame: Tensor) -> None:
        self._here.update(frame)

    def results(self) -> dict:
        for frame in self._reference:
            self._there.update(frame)
        here, there = self._here.rows, self._there.rows
        if min(len(here), len(there)) < LEAST:
            told = f"the video has {len(here)}, and the reference has {len(there)}"
            self.not_computed = {"FVD, KVD": f"need {LEAST} windows of {WINDOW} frames on either side: {told}."}
            return {}
        rows = torch.stack(here), torch.stack(there)
        return {
            "by": self.called,
            "window": WINDOW,
            "windows": [len(here), len(there)],
            "fvd": frechet_distance(*rows),
            "kvd": kernel_distance(*rows),
        }
