"""The captions of a story, where no sampler depends on them."""

from comfy_api.latest import io

from ..core.story.captions import with_captions
from .node import StoryReelNode
from .story import CATEGORY
from .types import StoryType


class StoryReelCaptions(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelCaptions",
            display_name="Captions (StoryReel)",
            category=CATEGORY,
            description="The captions of a story, one line a frame, for Comic Page and Subtitles. Editing them samples "
            "nothing again, which editing the script does.",
            search_aliases=["caption", "subtitle", "lettering", "comic text"],
            inputs=[
                StoryType.Input("story", tooltip="A story from the Story Script node."),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="One line a frame, in the story's order. An empty line is a frame without a caption. "
                    "Frames behind the last line keep the captions of the script.",
                ),
            ],
            outputs=[
                StoryType.Output(display_name="story", tooltip="The story with these captions."),
            ],
        )

    @classmethod
    def execute(cls, story, captions) -> io.NodeOutput:
        try:
            return io.NodeOutput(with_captions(story, captions))
        except ValueError as error:
            raise ValueError(f"Captions: {error}") from error


NODES = [StoryReelCaptions]
