"""Optical flow from one frame to the next, by OpenCV without any weights or by RAFT with a user's.

A flow is a function of two frames [3, H, W] from 0 to 255, and gives [2, H, W] in pixels, x first: where in the second
frame each pixel of the first one is.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

Flow = Callable[[Tensor, Tensor], Tensor]


def import_opencv():
    """OpenCV. Raises ImportError if none works."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"OpenCV cannot be imported ({error}): pip install opencv-python-headless, with ComfyUI's Python."
        ) from None
    return cv2


def dis_flow() -> Flow:
    """Dense inverse search (Kroeger et al., arXiv 1603.03590), OpenCV's medium preset, of gray frames.

    Raises as `import_opencv`.
    """
    cv2 = import_opencv()
    search = cast(Any, cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM))  # its stub forbids None

    def gray(frame: Tensor):
        return cv2.cvtColor(frame.to(torch.uint8).movedim(0, -1).contiguous().numpy(), cv2.COLOR_RGB2GRAY)

    def flow(first: Tensor, second: Tensor) -> Tensor:
        return torch.from_numpy(search.calc(gray(first), gray(second), None)).movedim(-1, 0)

    return flow


def raft_flow(network: torch.nn.Module) -> Flow:
    """RAFT (arXiv 2003.12039): torchvision's, where it lies, with the weights it has. Sides: multiples of 8, 128 on."""

    @torch.no_grad()
    def flow(first: Tensor, second: Tensor) -> Tensor:
        device = next(network.parameters()).device
        first, second = ((frame.to(device, torch.float32) / 127.5 - 1)[None] for frame in (first, second))
        return network(first, second)[-1][0].float().cpu()

    return flow
