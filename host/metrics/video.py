"""A video measured in one pass, with what the graph and the machine have for it, and its figures in a file."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from torch import Tensor

from ...core.metrics import report
from ...core.metrics.aesthetics import AestheticHead
from ...core.metrics.borders import Change, Chunks
from ...core.metrics.cuts import Cuts
from ...core.metrics.drift import Drift
from ...core.metrics.fidelity import Fidelity
from ...core.metrics.flow import Flow, dis_flow, raft_flow
from ...core.metrics.likeness import Likeness
from ...core.metrics.metric import Metric, evaluate
from ...core.metrics.motion import Motion
from ...core.metrics.slices import Slice
from ...core.metrics.video_sets import VideoSets
from ...core.video.images import fit
from ..common.folders import inside
from ..video.frames import frames_of
from . import models
from .features import embed_images, embed_prompts, name_of

DIS = "OpenCV's DIS, medium (the paper used RAFT: compare only figures of one flow)"
RAFT = "RAFT (torchvision's raft_large, with the weights of optical_flow)"

ELSEWHERE = {  # measures whose networks neither this pack nor the host builds
    "PIC by DreamSim": "needs DreamSim's network and weights.",
    "LPIPS": "needs a VGG or AlexNet backbone and LPIPS's weights.",
}
AESTHETIC, FACES, SETS = "aesthetic score", "re-identification", "FVD, KVD"
UNCHOSEN = {  # what these need, where the user chose no file
    AESTHETIC: "needs sac+logos+ava1-l14-linearMSE.pth in models/aesthetic, chosen at aesthetic_head, and CLIP "
    "ViT-L/14 at clip_vision.",
    FACES: "needs 20180402-114759-vggface2.pt in models/facenet, chosen at facenet, and the package facenet-pytorch.",
    SETS: "need i3d_torchscript.pt in models/i3d, chosen at i3d, and a reference_video.",
}


@dataclass(frozen=True)
class Weights:
    """Files that the user chose, of models/aesthetic, models/facenet and models/i3d; None: none."""

    aesthetic_head: str | None = None
    facenet: str | None = None
    i3d: str | None = None


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
    weights: Weights,
) -> tuple[dict, Slice]:
    """All figures, fit for JSON, and the X-T slice.

    video, reference: VIDEO or IMAGE. anchor: IMAGE, of which the first counts; None: the video's first frame.
    chunks: how it was put together, None if it was not. optical_flow: the host's OPTICAL_FLOW; None: OpenCV.

    Raises ValueError for what does not fit together, and for a file that holds something else.
    """
    count, frames = frames_of(video)
    first = next(frames, None)
    if first is None:
        raise ValueError("the video has no frames.")
    anchor = first if anchor is None else fit(anchor[:1, ..., :3].float().cpu(), first.shape[1], first.shape[0])[0]

    slice = Slice(slice_height)
    metrics: list[Metric] = [Change(), Drift(anchor), slice]
    missing: dict[str, str] = {}
    try:
        metrics.append(Cuts())
    except ImportError as error:
        missing["SCuts"] = str(error)
    try:
        flow = (dis_flow(), DIS) if optical_flow is None else (_raft(optical_flow), RAFT)
        metrics.append(Motion(*flow))
    except ImportError as error:
        missing["MAWE, flow deviation"] = f"{error} Or connect a RAFT model to optical_flow."
    chosen = {AESTHETIC: weights.aesthetic_head, FACES: weights.facenet, SETS: weights.i3d}
    missing |= {measure: why for measure, why in UNCHOSEN.items() if chosen[measure] is None}
    if clip_vision is None:
        missing["CLIP text-image score, frame consistency, PIC"] = "need an image encoder: connect clip_vision."
        missing.setdefault(AESTHETIC, "needs an image encoder: connect CLIP ViT-L/14 to clip_vision.")
    else:
        chosen_head = weights.aesthetic_head
        head = models.aesthetic_head(chosen_head, clip_vision) if chosen_head else None
        metrics.append(_likeness(clip_vision, clip, prompt, anchor, head))
        if clip is None or not prompt.strip():
            missing["CLIP text-image score"] = "needs a prompt, and the text encoder at clip."
    if weights.facenet is not None:
        try:
            metrics.append(models.reidentification(weights.facenet))
        except ImportError as error:
            missing[FACES] = str(error)
    bar = comfy.utils.ProgressBar(count)
    if reference is None:
        missing["PSNR, SSIM"] = "need a reference_video."
        missing.setdefault(SETS, "need a reference_video.")
    else:
        metrics.append(Fidelity(frames_of(reference)[1], strict=weights.i3d is None))
        if weights.i3d is not None:
            more, again = frames_of(reference)
            bar.total += more
            features = models.video_features(weights.i3d)
            metrics.append(VideoSets(features, _counted(again, bar), f"I3D ({Path(weights.i3d).name})"))

    size = evaluate(_counted(chain([first], frames), bar), metrics)
    borders = chunks.borders(size[0]) if chunks else []
    if not chunks:
        missing["chunk borders"] = "need chunk_length."
    elif not borders:
        missing["chunk borders"] = f"there is no second chunk: the first has {chunks.first or chunks.length} frames."
    return report.collect(size, metrics, borders, missing | ELSEWHERE), slice


def _counted(frames: Iterable[Tensor], bar: comfy.utils.ProgressBar) -> Iterator[Tensor]:
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
            f"optical_flow holds a {type(network).__name__}; RAFT from Load Optical Flow Model is expected."
        )
    estimate = raft_flow(network)

    def flow(before: Tensor, after: Tensor) -> Tensor:
        comfy.model_management.load_models_gpu([optical_flow])  # an encoder may have pushed it out meanwhile
        return estimate(before, after)

    return flow


def _likeness(clip_vision, clip, prompt: str, anchor: Tensor, head: AestheticHead | None) -> Likeness:
    (towards,) = embed_images(clip_vision, anchor[None])
    told = None
    if clip is not None and prompt.strip():
        (told,) = embed_prompts(clip, (prompt,), len(towards))
    return Likeness(lambda frames: embed_images(clip_vision, frames), name_of(clip_vision), towards, told, head)


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
