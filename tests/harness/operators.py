"""torchvision's nms where its compiled library does not load, with torch without CUDA: see tools/torch_cpu_shim."""

import torch


def provide_nms(monkeypatch):
    """By brute force, until the test ends. Does nothing where there is one."""
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError:
        library = torch.library.Library("torchvision", "IMPL", "CPU")  # freed with the last reference to it
        library.impl("nms", _nms)
        monkeypatch.setattr(torchvision.ops.boxes, "_assert_has_ops", lambda library=library: None)


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The numbers of the boxes that overlap no better one by more than that, best first."""
    from torchvision.ops import box_iou

    kept, left = [], scores.argsort(descending=True)
    while len(left):
        kept.append(left[0])
        left = left[1:][box_iou(boxes[left[:1]], boxes[left[1:]])[0] <= iou_threshold]
    return torch.stack(kept) if kept else left
