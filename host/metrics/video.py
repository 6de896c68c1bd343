"""A video measured in one pass, with what the graph and the machine have for it, and its figures in a file."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import cast

import comfy.model_management
import comfy.utils
import folder_paths
from torch import Tensor

from ...core.metrics import report
from ...core.metrics.metric import evaluate
from ...core.metrics.registry import compute_available
from ...core.metrics.slices import Slice
from ...core.video.images import fit
from ..common.folders import inside
from ..video.frames import frames_of
from .video_metrics import METRICS, SLICE, VideoInputs


def measure(video, reference_image: Tensor | None, **inputs) -> tuple[dict, Slice]:
    """All figures, fit for JSON, and the X-T slice.

    video: VIDEO or IMAGE. reference_image: IMAGE, of which the first counts; None: the video's first frame. inputs: the
    other fields of VideoInputs.

    Raises ValueError for what does not fit together, and for a file that holds something else.
    """
    count, frames = frames_of(video)
    first = next(frames, None)
    if first is None:
        raise ValueError("the video has no frames.")
    anchor = first
    if reference_image is not None:
        anchor = fit(reference_image[:1, ..., :3].float().cpu(), first.shape[1], first.shape[0])[0]
    bar = comfy.utils.ProgressBar(count)

    def read(further) -> Iterator[Tensor]:
        more, frames = frames_of(further)
        bar.total += more
        return _counted(frames, bar)

    metrics, not_computed = compute_available(METRICS, VideoInputs(anchor, read, **inputs))
    size = evaluate(_counted(chain([first], frames), bar), list(metrics.values()))
    return report.collect(size, list(metrics.values()), not_computed), cast(Slice, metrics[SLICE])


def _counted(frames: Iterable[Tensor], bar: comfy.utils.ProgressBar) -> Iterator[Tensor]:
    for frame in frames:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield frame
        bar.update(1)


def place_for(prefix: str) -> Path:
    """Where the next file of that prefix belongs in the host's output folder: prefix_00001_.json and so on.

    Raises ValueError for a prefix that names no file or leads out of that folder.
    """
    output = folder_paths.get_output_directory()
    path = inside(output, prefix, "filename_prefix")
    if prefix.endswith(("/", os.sep)) or not path.name.strip(". "):
        raise ValueError(f"filename_prefix {prefix!r} names no file inside the output folder.")
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, output)
    return Path(folder, f"{name}_{number:05}_.json")


def save(found: dict, path: Path) -> None:
    """Write the figures; the file appears under its name when it is whole."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    os.replace(unfinished, path)
