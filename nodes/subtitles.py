"""A story's captions as subtitles of its video."""

from comfy_api.latest import io

from ..host.common import messages
from ..host.video import even_sizes
from ..host.video.subtitles import check_subtitles, subtitle
from .node import PreflightNode
from .story import CATEGORY
from .types import StoryType


class StoryReelSubtitles(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelSubtitles",
            display_name="Subtitles (StoryReel)",
            category=CATEGORY,
            description="Adds the captions of a story to the saved video as a subtitle track, which players switch "
            "on and off. The frames stay unchanged.",
            search_aliases=["captions", "subtitle track", "srt", "mov_text", "closed captions"],
            inputs=[
                io.Video.Input("video", lazy=True, tooltip="The video of the story, as it will be saved."),
                StoryType.Input("story", tooltip="The story whose captions are shown, one for each of its frames."),
                io.Video.Input(
                    "timing",
                    optional=True,
                    lazy=True,
                    tooltip="Connect the video from Animate Story if Extend Video made the video longer. The captions "
                    "then spread evenly over this shorter video, and the last one stays to the end. Not connected: "
                    "they spread over the whole video.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The video with its subtitles, for Save Video."),
                io.String.Output(display_name="srt", tooltip="The same subtitles as the text of an .srt file."),
            ],
        )

    @classmethod
    def preflight(cls, story) -> None:
        check_subtitles(story)

    @classmethod
    def execute(cls, video, story, timing=None) -> io.NodeOutput:
        even = even_sizes.with_any_sides(video)
        if even is not video:
            messages.warn(even_sizes.describe_padding(video))
        return io.NodeOutput(*subtitle(even, story, timing))


NODES = [StoryReelSubtitles]
