"""What became of a story, in figures."""

from comfy_api.latest import io

from ..core import plot as charts
from ..core.metrics.similarity import Similarity, measure_story
from ..core.story.story import UNNAMED, Story
from ..host.common import messages
from ..host.metrics.features import embed_pictures, embed_prompts, name_of
from .node import PreflightNode
from .story import CATEGORY
from .types import StoryType


def report(story: Story, similarity: Similarity, encoder: str) -> str:
    """The figures in words, one line a character and one a frame."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [
        f"Cosines of {encoder}, middle squares of the pictures (StoryDiffusion, section 4.2)",
        "",
        "Character similarity",
    ]
    lines += [f"  {name or 'everybody'}: {value:.3f}" for name, value in similarity.characters.items()]
    if not similarity.characters:
        lines.append("  no character is in two frames")
    lines += ["", "Frame: likeness to the frames of the same characters, likeness to its prompt"]
    prompts = similarity.prompts or [None] * len(story.frames)
    for number, (frame, value, prompt) in enumerate(zip(story.frames, similarity.frames, prompts, strict=True), 1):
        who = ", ".join(name for name in frame.characters if name != UNNAMED)
        lines.append(f"  {number}. {shown(value)}, {shown(prompt)}{f'  ({who})' if who else ''}")
    if similarity.prompts:
        lines += ["", f"Text-image similarity: {sum(similarity.prompts) / len(similarity.prompts):.3f}"]
    return "\n".join(lines)


class StoryReelMeasureStory(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelMeasureStory",
            display_name="Measure Story (StoryReel)",
            category=CATEGORY,
            description="Character similarity and text-image similarity of a story's pictures, named after the encoder "
            "that computed them. Compare figures of one encoder only.",
            search_aliases=["CLIP score", "consistency", "similarity"],
            inputs=[
                io.Image.Input("images", lazy=True, tooltip="The story's pictures, one a frame, in its order."),
                StoryType.Input("story", tooltip="Who is in which frame, and the prompts."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-L or ViT-H are usual."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that was trained together with the image encoder, for the similarity to "
                    "the prompts. Left open, only the pictures are compared.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All figures, a line each."),
                io.Image.Output(display_name="plot", tooltip="The same as a bar chart."),
            ],
        )

    @classmethod
    def execute(cls, images, story, clip_vision, clip=None) -> io.NodeOutput:
        if len(images) != len(story.frames):
            raise ValueError(f"The story has {len(story.frames)} frames, and there are {len(images)} images.")
        pictures = embed_pictures(clip_vision, images)
        prompts = None if clip is None else embed_prompts(clip, story.prompts, pictures.shape[1])
        similarity = measure_story(story, pictures, prompts)
        series = {"likeness to frames of the same characters": similarity.frames}
        if similarity.prompts:
            series["likeness to the prompt"] = similarity.prompts
        encoder = name_of(clip_vision)
        plot = charts.bars([str(number) for number in range(1, len(images) + 1)], series, "frame", f"cosine, {encoder}")
        messages.warn_missing_charts()
        return io.NodeOutput(report(story, similarity, encoder), plot)


NODES = [StoryReelMeasureStory]
