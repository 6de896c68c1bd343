"""The metrics of Measure Video. To add one, add an entry to METRICS, or to SCORES if it reads embeddings of frames."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
from torch import Tensor

from ...core.metrics.borders import Borders, Change, Chunks
from ...core.metrics.cuts import Cuts, import_scenedetect
from ...core.metrics.drift import Drift
from ...core.metrics.fidelity import Fidelity
from ...core.metrics.flow import Flow, dis_flow, import_opencv, raft_flow
from ...core.metrics.likeness import EmbeddingScore, Likeness, aesthetic, consistency, likeness_to
from ...core.metrics.metric import Metric
from ...core.metrics.motion import Motion
from ...core.metrics.registry import Entry, compute_available, found, given, importable
from ...core.metrics.slices import Slice
from ...core.metrics.video_sets import VideoSets
from ..video.frames import frames_of
from . import models
from .encoders import Encoder

DIS = "OpenCV's DIS, medium (the paper used RAFT: compare only figures of one flow)"
SLICE = "X-T slice"
RAFT = "RAFT (torchvision's raft_large, with the weights of optical_flow)"


@dataclass(frozen=True)
class VideoInputs:
    """What the metrics of a video may read.

    anchor: [H, W, 3], of the size of the frames. reference: VIDEO or IMAGE. chunks: how the video was put together,
    None if it was not. optical_flow: the host's OPTICAL_FLOW, None for OpenCV's. aesthetic_head, facenet, i3d: files of
    the folders of these names, or None. read: the frames of a further VIDEO or IMAGE, while the host shows progress and
    may interrupt.
    """

    anchor: Tensor
    read: Callable[[object], Iterator[Tensor]]
    encoder: Encoder | None = None
    prompt: str = ""
    reference: Any = None
    chunks: Chunks | None = None
    optical_flow: object | None = None
    slice_height: float = 0.5
    aesthetic_head: str | None = None
    facenet: str | None = None
    i3d: str | None = None


def _flow_package(inputs: VideoInputs) -> str | None:
    reason = None if inputs.optical_flow is not None else importable(import_opencv)(inputs)
    return reason and f"{reason} Or connect a RAFT model to optical_flow."


def _text_encoder(inputs: VideoInputs) -> str | None:
    return found(inputs.encoder).no_text()


def _prompt(inputs: VideoInputs) -> str | None:
    return None if inputs.prompt.strip() else "needs a prompt."


def _not_here(name: str, reason: str) -> Entry[VideoInputs, Metric]:
    """A metric whose network is neither in this pack nor in the host."""

    def compute(_inputs: VideoInputs) -> Metric:
        raise NotImplementedError(f"{name} {reason}")

    return Entry(name, compute, (lambda _inputs: reason,))


def _motion(inputs: VideoInputs) -> Motion:
    if inputs.optical_flow is None:
        return Motion(dis_flow(), DIS)
    return Motion(_raft(inputs.optical_flow), RAFT)


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


def _likeness(inputs: VideoInputs) -> Likeness:
    scores, _ = compute_available(SCORES, inputs)
    encoder = found(inputs.encoder)
    return Likeness(encoder.embed_images, encoder.name, list(scores.values()))


def _to_anchor(inputs: VideoInputs) -> EmbeddingScore:
    (anchor,) = found(inputs.encoder).embed_images(inputs.anchor[None])
    return likeness_to("anchor_likeness", anchor)


def _to_prompt(inputs: VideoInputs) -> EmbeddingScore:
    (prompt,) = found(inputs.encoder).embed_prompts((inputs.prompt,))
    return likeness_to("prompt_likeness", prompt)


def _fidelity(inputs: VideoInputs) -> Fidelity:
    return Fidelity(frames_of(inputs.reference)[1], strict=inputs.i3d is None)


def _sets(inputs: VideoInputs) -> VideoSets:
    i3d = found(inputs.i3d)
    return VideoSets(models.video_features(i3d), inputs.read(inputs.reference), f"I3D ({Path(i3d).name})")


IMAGE_ENCODER = given("encoder", "needs an image encoder: connect clip_vision.")
AESTHETIC_HEAD = given(
    "aesthetic_head",
    "needs sac+logos+ava1-l14-linearMSE.pth in models/aesthetic, chosen at aesthetic_head, and CLIP ViT-L/14 at "
    "clip_vision.",
)
AESTHETIC_ENCODER = given("encoder", "needs an image encoder: connect CLIP ViT-L/14 to clip_vision.")
FACENET = given(
    "facenet",
    "needs 20180402-114759-vggface2.pt in models/facenet, chosen at facenet, and the package facenet-pytorch.",
)
I3D = given("i3d", "need i3d_torchscript.pt in models/i3d, chosen at i3d, and a reference_video.")
REFERENCE = given("reference", "need a reference_video.")

SCORES: tuple[Entry[VideoInputs, EmbeddingScore], ...] = (
    Entry("frame consistency", lambda inputs: consistency(), (IMAGE_ENCODER,)),
    Entry("PIC", _to_anchor, (IMAGE_ENCODER,)),
    Entry("CLIP text-image score", _to_prompt, (IMAGE_ENCODER, _text_encoder, _prompt)),
    Entry(
        "aesthetic score",
        lambda inputs: aesthetic(models.aesthetic_head(found(inputs.aesthetic_head), found(inputs.encoder))),
        (AESTHETIC_HEAD, AESTHETIC_ENCODER),
    ),
)

METRICS: tuple[Entry[VideoInputs, Metric], ...] = (
    Entry("change", lambda inputs: Change()),
    Entry("drift", lambda inputs: Drift(inputs.anchor)),
    Entry(SLICE, lambda inputs: Slice(inputs.slice_height)),
    Entry("SCuts", lambda inputs: Cuts(), (importable(import_scenedetect),)),
    Entry("MAWE, flow deviation", _motion, (_flow_package,)),
    Entry("scores of embeddings", _likeness, (IMAGE_ENCODER,), parts=SCORES),
    Entry(
        "re-identification",
        lambda inputs: models.reidentification(found(inputs.facenet)),
        (FACENET, importable(models.import_facenet)),
    ),
    Entry("PSNR, SSIM", _fidelity, (REFERENCE,)),
    Entry("FVD, KVD", _sets, (I3D, REFERENCE)),
    Entry("chunk borders", lambda inputs: Borders(found(inputs.chunks)), (given("chunks", "need chunk_length."),)),
    _not_here("PIC by DreamSim", "needs DreamSim's network and weights."),
    _not_here("LPIPS", "needs a VGG or AlexNet backbone and LPIPS's weights."),
)
