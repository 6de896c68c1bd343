"""The captions of a story, in a node that no sampler depends on."""

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
            description="Replaces the captions of a story, one line for each frame, for Comic Page and Subtitles. "
            "Editing them here resamples nothing; editing the script does.",
            search_aliases=["caption", "subtitle", "lettering", "comic text"],
            inputs=[
                StoryType.Input("story", tooltip="A story from the Story Script node."),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="One line for each frame, in the order of the story. An empty line is a frame without a "
                    "caption. Frames after the last line keep the captions of the script.",
                ),
            ],
            outputs=[
                StoryType.Output(display_name="story", tooltip="The story with these captions."),
            ],
        )

    @classmethod
    def execute(cls, story, captions) -> io.NodeOutput:
        return io.NodeOutput(with_captions(story, captions))


NODES = [StoryReelCaptions]
