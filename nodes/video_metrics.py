"""What became of a video, in figures."""

from comfy_api.latest import io, ui

from ..core.metrics import report
from ..core.metrics.borders import Chunks
from ..host.common import messages
from ..host.common.folders import file_names
from ..host.common.kept_files import kept_files
from ..host.metrics import models
from ..host.metrics import video as measure_video
from ..host.metrics.encoders import load_encoder
from .metrics import NONE, encoder_folder_input
from .node import PreflightNode
from .story import CATEGORY


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
            description="Computes what papers on long video report: cuts, motion, seams between chunks, drift, and how "
            "well the video fits its prompt. Gives a report, curves and a JSON file. A metric that cannot be computed "
            "is listed with what it needs.",
            search_aliases=["MAWE", "SCuts", "drift", "PSNR", "SSIM", "CLIP score", "optical flow", "consistency"]
            + ["aesthetic score", "FVD", "KVD", "face", "re-identification"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "video",
                    types=[io.Video, io.Image],
                    lazy=True,
                    tooltip="The video, or its frames. A file is read frame by frame, so it may be of any length.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="What the video should keep looking like. The first image counts. If nothing is linked, "
                    "the first frame of the video is the reference.",
                ),
                io.MultiType.Input(
                    "reference_video",
                    types=[io.Video, io.Image],
                    optional=True,
                    tooltip="The video to compare with, for PSNR and SSIM; it must have the same size and length. With "
                    "i3d it may be any clip, for FVD and KVD.",
                ),
                io.Int.Input(
                    "chunk_length",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames of a chunk: 16 for StreamingT2V, 25 for StreamingSVD. 0: the video was not made in "
                    "chunks.",
                ),
                io.Int.Input(
                    "overlap",
                    default=8,
                    min=0,
                    max=4095,
                    tooltip="Frames that a chunk shares with the one before: 8 for StreamingT2V, 7 for StreamingSVD.",
                ),
                io.Custom("OPTICAL_FLOW").Input(
                    "optical_flow",
                    optional=True,
                    tooltip="RAFT from Load Optical Flow Model, as the paper measures. If nothing is linked, "
                    "OpenCV's DIS is used, which needs no weights.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder for frame consistency and for similarity to reference and prompt. CLIP "
                    "ViT-L and ViT-H are usual.",
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
                    tooltip="Where the JSON file with the results goes in the output folder.",
                ),
                io.Float.Input(
                    "slice_height",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="The row of the frames that the X-T slice shows. 0 is the top row, 1 the bottom row.",
                ),
                io.Int.Input(
                    "first_frames",
                    default=0,
                    min=0,
                    max=2**31,
                    optional=True,
                    advanced=True,
                    tooltip="Frames before the first border between chunks, which are those of the clip that Extend "
                    "Video extended. 0: chunk_length.",
                ),
                _file(
                    "aesthetic_head",
                    models.AESTHETIC,
                    "LAION's aesthetic predictor in models/aesthetic, for the aesthetic score. It needs OpenAI's CLIP "
                    "ViT-L/14 at clip_vision.",
                ),
                _file(
                    "facenet",
                    models.FACENET,
                    "FaceNet's weights in models/facenet, for the re-identification of faces. They need the package "
                    "facenet-pytorch.",
                ),
                _file(
                    "i3d",
                    models.I3D,
                    "I3D as TorchScript in models/i3d, for FVD and KVD against reference_video, which may then have "
                    "any size and length.",
                    suffixes=models.SCRIPTS,
                ),
                encoder_folder_input(),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All results, one a line."),
                io.Image.Output(display_name="plot", tooltip="Curves over the frames, with the X-T slice below."),
                io.Image.Output(display_name="slice", tooltip="The X-T slice alone: one row of pixels a frame."),
                io.String.Output(display_name="file", tooltip="Path of the JSON file with the results of every frame."),
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
        encoder_folder=NONE,
    ) -> io.NodeOutput:
        path = measure_video.place_for(filename_prefix)
        files = dict(aesthetic_head=aesthetic_head, facenet=facenet, i3d=i3d)
        found, slice = measure_video.measure(
            video,
            reference_image,
            chunks=Chunks(chunk_length, overlap, first_frames) if chunk_length else None,
            optical_flow=optical_flow,
            encoder=load_encoder(None if encoder_folder == NONE else encoder_folder, clip_vision, clip),
            prompt=prompt,
            reference=reference_video,
            slice_height=slice_height,
            **{name: None if file == NONE else file for name, file in files.items()},
        )
        measure_video.save(found, path)
        kept_files.add(path)
        messages.warn_missing_charts()
        words, plot = report.in_words(found), report.draw(found, slice)
        return io.NodeOutput(words, plot, slice.image(), str(path), ui=ui.PreviewText(words))


NODES = [StoryReelMeasureVideo]
