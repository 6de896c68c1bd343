"""How near a video is to a reference that it should equal: PSNR, and SSIM by Wang et al. (IEEE TIP 13(4), 2004)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .drift import luma
from .metric import Metric, mean

WINDOW, SIGMA = 11, 1.5  # pixels
STABLE = 0.01**2, 0.03**2  # C1 and C2 for a range of 1


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images from 0 to 1; inf where they are equal."""
    return (-10 * (a - b).double().pow(2).mean().log10()).item()


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of the luma of images [H, W, 3] from 0 to 1, at least 11 pixels each way.

    As published: a Gaussian window, only where it fits into the image, the mean over all its places.
    """
    a, b = luma(a.double()), luma(b.double())
    means = _smooth(torch.stack([a, b, a * a, b * b, a * b]))
    x, y = means[:2]
    variance_x, variance_y, covariance = means[2] - x * x, means[3] - y * y, means[4] - x * y
    c1, c2 = STABLE
    similarity = (2 * x * y + c1) * (2 * covariance + c2)
    return (similarity / ((x * x + y * y + c1) * (variance_x + variance_y + c2))).mean().item()


def _smooth(x: Tensor) -> Tensor:
    places = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    kernel = torch.exp(-(places**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    return conv2d(conv2d(x[:, None], kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]


class Fidelity(Metric):
    """Compares every frame with the one of the reference. Series: psnr, None where the two are equal; ssim.

    Raises ValueError for a reference of another size or length, and for frames smaller than SSIM's window.
    strict=False: these are told as not computed, since the reference is there for other measures, too.
    """

    name = "fidelity"

    def __init__(self, reference: Iterator[Tensor], strict: bool = True):
        super().__init__("psnr", "ssim")
        self._reference, self._strict = reference, strict
        self._equal = 0

    def update(self, frame: Tensor) -> None:
        if self.not_computed:
            return
        number = len(self.per_frame["psnr"])
        other = next(self._reference, None)
        if other is None:
            return self._refuse(f"The reference ends after {number} frames, and the video goes on.")
        if other.shape != frame.shape:
            (height, width), (tall, wide) = frame.shape[:2], other.shape[:2]
            return self._refuse(f"The reference is {wide} x {tall}, and the video is {width} x {height}.")
        if min(frame.shape[:2]) < WINDOW:
            return self._refuse(f"SSIM needs frames of at least {WINDOW} x {WINDOW} pixels.")
        self._equal += torch.equal(frame, other)
        self.record(psnr=psnr(frame, other), ssim=ssim(frame, other))

    def _refuse(self, why: str) -> None:
        if self._strict:
            raise ValueError(why)
        self.not_computed = {"PSNR, SSIM": why}

    def results(self) -> dict:
        count = len(self.per_frame["psnr"])
        if not self.not_computed and next(self._reference, None) is not None:
            self._refuse(f"The video ends after {count} frames, and the reference goes on.")
        return {"psnr": mean(self.per_frame["psnr"]), "ssim": mean(self.per_frame["ssim"]), "equal_frames": self._equal}
