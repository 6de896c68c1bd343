"""Lets torchvision's CUDA-linked wheel be imported with a torch without CUDA. Set-up copies it into those alone.

torchvision's compiled library cannot load there, so its operators stay undeclared, and torchvision fails when it
attaches its shape functions to them. Declaring the two that it looks for is enough: transforms and models work. The
operators themselves are still missing, and torchvision raises an error when one is called.

A line in a .pth file imports this at the start of Python; nothing happens until torchvision is imported.
"""

import sys
from importlib.abc import MetaPathFinder

OPERATORS = ("nms", "qnms")


class _BeforeTorchvision(MetaPathFinder):
    """It finds nothing, and only notices the import."""

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
    sys.modules[__name__].library = library  # the operators live as long as this object


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchvision())
