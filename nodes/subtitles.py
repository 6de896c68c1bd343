"""A story's captions as subtitles of its film."""

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
            description="The captions of a story as a track of subtitles in the saved video, which players switch on "
            "and off. The pictures stay as they are.",
            search_aliases=["captions", "subtitle track", "srt", "mov_text", "closed captions"],
            inputs=[
                io.Video.Input("video", lazy=True, tooltip="The story's film, as it will be saved."),
                StoryType.Input("story", tooltip="The story whose captions are shown, one for each of its frames."),
                io.Video.Input(
                    "timing",
                    optional=True,
                    lazy=True,
                    tooltip="Where the film goes on behind the story, as by Extend Video: the story's own part of it, "
                    "from Animate Story. The captions are shared out evenly over its length, and the last one stays. "
                    "Not connected: over the whole film.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The film with its subtitles, for Save Video."),
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
