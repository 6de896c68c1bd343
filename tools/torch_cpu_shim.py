"""Lets torchvision's CUDA-linked wheel import beside a torch without CUDA. Set-up puts it into such environments only.

torchvision's compiled library cannot load there, so its operators stay undeclared, and torchvision fails when it
attaches its shape functions to them. Declaring the two that are checked at import is enough: transforms and models
work, and `nms` has a plain implementation below; other compiled operators fail when they are called, as they should.

A line in a .pth file imports this at the start of Python; nothing happens until somebody imports torchvision.
"""

import sys
from importlib.abc import MetaPathFinder

OPERATORS = ("nms", "qnms")


class _BeforeTorchvision(MetaPathFinder):
    """Not a finder: it only hears of the import."""

    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare()


def declare():
    import torch

    if torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", non_maximum_suppression, "CPU")
    sys.modules[__name__].library = library  # the operators live as long as this object


def non_maximum_suppression(boxes, scores, threshold):
    """Greedy NMS. boxes: (N, 4) as x1 y1 x2 y2; returns the kept indices, best score first."""
    import torch

    left_top, right_bottom = boxes[:, None, :2].maximum(boxes[:, :2]), boxes[:, None, 2:].minimum(boxes[:, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    overlaps = shared / (area[:, None] + area - shared) > threshold
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not overlaps[index, kept].any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long)


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchvision())
