"""A video measured in one pass, with what the graph and the machine have for it, and its figures in a file."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from torch import Tensor

from ..core.video import report
from ..core.video.borders import Change, Chunks
from ..core.video.cuts import Cuts
from ..core.video.drift import Drift
from ..core.video.fidelity import Fidelity
from ..core.video.flow import Flow, dis_flow, raft_flow
from ..core.video.likeness import Likeness
from ..core.video.motion import Motion
from ..core.video.pictures import fit
from ..core.video.slices import Slice
from ..core.video.watching import Watcher, watch
from .measure import embed_pictures, embed_prompts, name_of
from .video_frames import frames_of

NODE = "StoryReelMeasureVideo"
DIS = "OpenCV's DIS, medium (the paper used RAFT: compare only figures of one flow)"
RAFT = "RAFT (torchvision's raft_large, with the weights of optical_flow)"

ELSEWHERE = {  # measures whose networks neither this pack nor the host builds
    "PIC by DreamSim": "needs DreamSim's network and weights.",
    "LPIPS": "needs a VGG or AlexNet backbone and LPIPS's weights.",
    "re-identification": "needs a face detector (MTCNN) and FaceNet's weights.",
    "aesthetic score": "needs the LAION head on CLIP ViT-L/14.",
    "FVD, KVD": "need I3D's weights, and sets of videos on both sides.",
}


def measure(
    video,
    anchor: Tensor | None,
    reference,
    chunks: Chunks | None,
    optical_flow,
    clip_vision,
    clip,
    prompt: str,
    slice_height: float,
) -> tuple[dict, Slice]:
    """All figures, fit for JSON, and the X-T slice.

    video, reference: VIDEO or IMAGE. anchor: IMAGE, of which the first counts; None: the video's first frame.
    chunks: how it was put together, None if it was not. optical_flow: the host's OPTICAL_FLOW; None: OpenCV.

    Raises ValueError for what does not fit together.
    """
    count, frames = frames_of(video)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{NODE}: the video has no frames.")
    anchor = first if anchor is None else fit(anchor[:1, ..., :3].float().cpu(), first.shape[1], first.shape[0])[0]

    slice = Slice(slice_height)
    watchers: list[Watcher] = [Change(), Drift(anchor), slice]
    missing: dict[str, str] = {}
    try:
        watchers.append(Cuts())
    except ImportError as error:
        missing["SCuts"] = str(error)
    try:
        flow = (dis_flow(), DIS) if optical_flow is None else (_raft(optical_flow), RAFT)
        watchers.append(Motion(*flow))
    except ImportError as error:
        missing["MAWE, flow deviation"] = f"{error} Or connect a RAFT model to optical_flow."
    if clip_vision is None:
        missing["CLIP text-image score, frame consistency, PIC"] = "need an image encoder: connect clip_vision."
    else:
        watchers.append(_likeness(clip_vision, clip, prompt, anchor))
        if clip is None or not prompt.strip():
            missing["CLIP text-image score"] = "needs a prompt, and the text encoder at clip."
    if reference is None:
        missing["PSNR, SSIM"] = "need a reference."
    else:
        watchers.append(Fidelity(frames_of(reference)[1]))

    size = watch(_counted(chain([first], frames), count), watchers)
    borders = chunks.borders(size[0]) if chunks else []
    if not chunks:
        missing["chunk borders"] = "need chunk_length."
    elif not borders:
        missing["chunk borders"] = f"there is no second chunk: the first has {chunks.first or chunks.length} frames."
    return report.collect(size, watchers, borders, missing | ELSEWHERE), slice


def _counted(frames: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    bar = comfy.utils.ProgressBar(count)
    for frame in frames:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield frame
        bar.update(1)


def _raft(optical_flow) -> Flow:
    """Of the model that the host's Load Optical Flow Model gives."""
    from torchvision.models.optical_flow import RAFT as Network  # takes a second to import

    network = getattr(optical_flow, "model", None)
    if not isinstance(network, Network):
        raise ValueError(
            f"{NODE}: optical_flow holds a {type(network).__name__}; RAFT from Load Optical Flow Model is expected."
        )
    estimate = raft_flow(network)

    def flow(before: Tensor, after: Tensor) -> Tensor:
        comfy.model_management.load_models_gpu([optical_flow])  # an encoder may have pushed it out meanwhile
        return estimate(before, after)

    return flow


def _likeness(clip_vision, clip, prompt: str, anchor: Tensor) -> Likeness:
    (towards,) = embed_pictures(clip_vision, anchor[None])
    told = None
    if clip is not None and prompt.strip():
        (told,) = embed_prompts(clip, (prompt,), len(towards))
    return Likeness(lambda frames: embed_pictures(clip_vision, frames), name_of(clip_vision), towards, told)


def place_for(prefix: str) -> Path:
    """Where the next file of that prefix belongs in the host's output folder: prefix_00001_.json and so on.

    Raises ValueError for a prefix that names no file or leads out of that folder.
    """
    output = folder_paths.get_output_directory()
    if not Path(prefix).name.strip(". ") or not folder_paths.is_within_directory(output, os.path.join(output, prefix)):
        raise ValueError(f"{NODE}: filename_prefix {prefix!r} names no file inside the output folder.")
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, output)
    return Path(folder, f"{name}_{number:05}_.json")


def save(found: dict, path: Path) -> None:
    """Write the figures; the file appears under its name when it is whole."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    os.replace(unfinished, path)
