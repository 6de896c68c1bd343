"""What became of a video, in figures."""

from comfy_api.latest import io, ui

from ..core.metrics import report
from ..core.metrics.borders import Chunks
from ..host.common import messages
from ..host.common.folders import file_names
from ..host.common.kept_files import kept_files
from ..host.metrics import models
from ..host.metrics import video as measure_video
from .node import PreflightNode
from .story import CATEGORY

NONE = "none"


def _file(name: str, folder: str, tooltip: str, **kinds) -> io.Combo.Input:
    """A file of models/`folder`, or none. Optional: prompts from before there was a choice go on as they were."""
    options = [NONE, *file_names(folder, **kinds)]
    return io.Combo.Input(name, options=options, default=NONE, optional=True, advanced=True, tooltip=tooltip)


class StoryReelMeasureVideo(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelMeasureVideo",
            display_name="Measure Video (StoryReel)",
            category=CATEGORY,
            description="Cuts, motion, seams between chunks, drift, fit to the prompt: what papers on long video "
            "report, in figures, curves and a JSON file. What cannot be computed is listed with what it needs.",
            search_aliases=["MAWE", "SCuts", "drift", "PSNR", "SSIM", "CLIP score", "optical flow", "consistency"]
            + ["aesthetic score", "FVD", "KVD", "face", "re-identification"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "video",
                    types=[io.Video, io.Image],
                    lazy=True,
                    tooltip="The video, or its frames. A file is read frame by frame, however long it is.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="What the video should keep looking like; the first picture counts. Left open: its first "
                    "frame.",
                ),
                io.MultiType.Input(
                    "reference_video",
                    types=[io.Video, io.Image],
                    optional=True,
                    tooltip="A video of the same size and length that it should equal, for PSNR and SSIM; with i3d any "
                    "clip, for FVD and KVD.",
                ),
                io.Int.Input(
                    "chunk_length",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames of a chunk, if the video was made in chunks: 16 for StreamingT2V, 25 for "
                    "StreamingSVD. 0: it was not.",
                ),
                io.Int.Input(
                    "overlap",
                    default=8,
                    min=0,
                    max=4095,
                    tooltip="Frames of the chunk before that each one repeats: 8 for StreamingT2V, 7 for StreamingSVD.",
                ),
                io.Custom("OPTICAL_FLOW").Input(
                    "optical_flow",
                    optional=True,
                    tooltip="RAFT, with which the paper measures, from Load Optical Flow Model. Left open: OpenCV's "
                    "DIS, which needs no weights.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder for frame consistency and likeness to anchor and prompt: CLIP ViT-L or "
                    "ViT-H are usual.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that was trained together with the image encoder.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the video should show, for the CLIP text-image score. Its first 77 tokens count.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="story/measured",
                    tooltip="Where the figures go in the output folder, as JSON.",
                ),
                io.Float.Input(
                    "slice_height",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Which row of the frames the X-T slice shows: 0 the top one, 1 the bottom one.",
                ),
                io.Int.Input(
                    "first_frames",
                    default=0,
                    min=0,
                    max=2**31,
                    optional=True,
                    advanced=True,
                    tooltip="Frames before the first border between chunks: those of the clip that Extend Video went "
                    "on from. 0: one chunk_length.",
                ),
                _file(
                    "aesthetic_head",
                    models.AESTHETIC,
                    "LAION's aesthetic predictor, in models/aesthetic, for the aesthetic score. Wants OpenAI's CLIP "
                    "ViT-L/14 at clip_vision.",
                ),
                _file(
                    "facenet",
                    models.FACENET,
                    "FaceNet's weights, in models/facenet, for the re-identification of faces. Wants the package "
                    "facenet-pytorch.",
                ),
                _file(
                    "i3d",
                    models.I3D,
                    "I3D as TorchScript, in models/i3d, for FVD and KVD against the reference, which then may have any "
                    "size and length.",
                    suffixes=models.SCRIPTS,
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All figures, a line each."),
                io.Image.Output(display_name="plot", tooltip="Curves over the frames, and the X-T slice below."),
                io.Image.Output(display_name="slice", tooltip="The X-T slice alone: a row of pixels a frame."),
                io.String.Output(display_name="file", tooltip="The JSON file, with the figures of every frame."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, filename_prefix, **_) -> None:
        measure_video.place_for(filename_prefix)

    @classmethod
    def execute(
        cls,
        video,
        chunk_length,
        overlap,
        prompt,
        filename_prefix,
        slice_height,
        reference_image=None,
        reference_video=None,
        optical_flow=None,
        clip_vision=None,
        clip=None,
        first_frames=0,
        aesthetic_head=NONE,
        facenet=NONE,
        i3d=NONE,
    ) -> io.NodeOutput:
        path = measure_video.place_for(filename_prefix)
        chunks = Chunks(chunk_length, overlap, first_frames) if chunk_length else None
        weights = measure_video.Weights(*(None if name == NONE else name for name in (aesthetic_head, facenet, i3d)))
        found, slice = measure_video.measure(
            video,
            reference_image,
            reference_video,
            chunks,
            optical_flow,
            clip_vision,
            clip,
            prompt,
            slice_height,
            weights,
        )
        measure_video.save(found, path)
        kept_files.add(path)
        messages.warn_missing_charts()
        words, plot = report.in_words(found), report.draw(found, slice)
        return io.NodeOutput(words, plot, slice.picture(), str(path), ui=ui.PreviewText(words))


NODES = [StoryReelMeasureVideo]
