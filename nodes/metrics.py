"""Measure Story."""

from comfy_api.latest import io

from ..core import plot as charts
from ..core.metrics.registry import found
from ..core.metrics.story_report import in_words
from ..host.common import messages
from ..host.metrics.encoders import encoder_folders, load_encoder
from ..host.metrics.story_metrics import measure
from .node import PreflightNode
from .story import CATEGORY
from .types import StoryType

NONE = "none"


def encoder_folder_input() -> io.Combo.Input:
    return io.Combo.Input(
        "encoder_folder",
        options=[NONE, *encoder_folders()],
        default=NONE,
        optional=True,
        advanced=True,
        tooltip="A folder in models/clip_vision with an encoder for open_clip (images and prompts) or transformers "
        "(images: CLIP, DINOv2). It is used in place of clip_vision and clip.",
    )


class StoryReelMeasureStory(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelMeasureStory",
            display_name="Measure Story (StoryReel)",
            category=CATEGORY,
            description="Computes character similarity and text-image similarity of a story's images. The results name "
            "the encoder that computed them. Compare results of one encoder only.",
            search_aliases=["CLIP score", "consistency", "similarity"],
            inputs=[
                io.Image.Input("images", lazy=True, tooltip="The images of the story, one a frame, in its order."),
                StoryType.Input("story", tooltip="Who is in which frame, and the prompts."),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The image encoder. CLIP ViT-L and ViT-H are usual."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that was trained together with the image encoder, for the similarity to "
                    "the prompts. For ViT-L: clip_l.safetensors, by Load CLIP. If nothing is linked, only the images "
                    "are compared.",
                ),
                encoder_folder_input(),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All results, one a line."),
                io.Image.Output(display_name="plot", tooltip="The same results as a bar chart."),
            ],
        )

    @classmethod
    def preflight(cls, clip_vision=None, encoder_folder=NONE, **_) -> None:
        if clip_vision is None and encoder_folder == NONE:
            raise ValueError("clip_vision is empty: connect an image encoder, or choose one at encoder_folder.")

    @classmethod
    def execute(cls, images, story, clip_vision=None, clip=None, encoder_folder=NONE) -> io.NodeOutput:
        cls.preflight(clip_vision, encoder_folder)
        encoder = found(load_encoder(None if encoder_folder == NONE else encoder_folder, clip_vision, clip))
        scores, not_computed = measure(story, images, encoder)
        series = {score.column: score.frames for score in scores.values()}
        labels = [str(number) for number in range(1, len(images) + 1)]
        plot = charts.bars(labels, series, "frame", f"cosine, {encoder.name}")
        messages.warn_missing_charts()
        return io.NodeOutput(in_words(story, scores, not_computed, encoder.name), plot)


NODES = [StoryReelMeasureStory]
