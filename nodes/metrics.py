"""Measure Story."""

from comfy_api.latest import io

from ..core import plot as charts
from ..core.metrics.similarity import measure_story
from ..core.metrics.story_report import in_words
from ..host.common import messages
from ..host.metrics.features import embed_images, embed_prompts, name_of
from .node import PreflightNode
from .story import CATEGORY
from .types import StoryType


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
                io.ClipVision.Input("clip_vision", tooltip="The image encoder. CLIP ViT-L and ViT-H are usual."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that was trained together with the image encoder, for the similarity to "
                    "the prompts. If nothing is linked, only the images are compared.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All results, one a line."),
                io.Image.Output(display_name="plot", tooltip="The same results as a bar chart."),
            ],
        )

    @classmethod
    def execute(cls, images, story, clip_vision, clip=None) -> io.NodeOutput:
        if len(images) != len(story.frames):
            raise ValueError(f"The story has {len(story.frames)} frames, and there are {len(images)} images.")
        embeddings = embed_images(clip_vision, images)
        prompts = None if clip is None else embed_prompts(clip, story.prompts, embeddings.shape[1])
        similarity = measure_story(story, embeddings, prompts)
        series = {"likeness to frames of the same characters": similarity.frames}
        if similarity.prompts:
            series["likeness to the prompt"] = similarity.prompts
        encoder = name_of(clip_vision)
        plot = charts.bars([str(number) for number in range(1, len(images) + 1)], series, "frame", f"cosine, {encoder}")
        messages.warn_missing_charts()
        return io.NodeOutput(in_words(story, similarity, encoder), plot)


NODES = [StoryReelMeasureStory]
