"""Writing a safetensors file tensor by tensor, so that only one of them is in memory a second time.

The library wants all of them on the CPU before it writes the first. See `safetensors_header` for the format.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .safetensors_header import LENGTH, METADATA

FORMATS = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int32: "I32",
    torch.uint8: "U8",
}


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    report: Callable[[int], None] = lambda size: None,
) -> None:
    """Write a file at `path`, which is not whole before this ends; see `core.video.files.appearing`.

    tensors: on any device, in FORMATS. report(bytes): called after each tensor.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each begins at its size
    header: dict = {METADATA: dict(metadata)}
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += size_of(tensor)
        header[name] = {"dtype": FORMATS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(LENGTH, "little") + text)
        for name in names:
            tensor = tensors[name].detach().cpu().contiguous()
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
            report(size_of(tensor))


def size_of(tensor: Tensor) -> int:
    """Bytes."""
    return tensor.numel() * tensor.element_size()
