"""Videos as a whole: clips joined into one, and a choice between two."""

from comfy_api.latest import Types, io

from ..core.video import clips
from ..host.common import messages
from ..host.video import even_sizes
from ..host.video.file import rate_of
from .node import StoryReelNode
from .story import CATEGORY


class StoryReelJoinClips(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelJoinClips",
            display_name="Join Clips (StoryReel)",
            category=CATEGORY,
            description="Joins clips into one video.",
            search_aliases=["concatenate video", "loop"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Clips of one size, in their order."),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames per second of the video."
                ),
                io.Boolean.Input(
                    "shared_ends",
                    default=True,
                    tooltip="On: each clip begins with the last frame of the clip before it, and that frame is "
                    "kept once.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="On: the last frame repeats the first one and is left out, so that the video loops.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="For Save Video."),
                io.Image.Output(tooltip="The frames."),
            ],
        )

    @classmethod
    def execute(cls, images, fps, shared_ends, loop) -> io.NodeOutput:
        joined = clips.join(images, shared_ends[0], loop[0])
        rate = rate_of(fps[0])
        video = even_sizes.FrameVideo(Types.VideoComponents(images=joined, audio=None, frame_rate=rate))
        if padding := even_sizes.describe_padding(video):
            messages.warn(padding)
        return io.NodeOutput(video, joined)


UNLINKED = object()  # the value of an input without a link; None is one that the host has not computed yet


class StoryReelEitherVideo(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelEitherVideo",
            display_name="Switch Video (StoryReel)",
            category=CATEGORY,
            description="Passes on override if it is connected, or else video. Mute the nodes that make "
            "override to switch to video. The video that is not chosen is not made. ComfyUI's Soft Switch has a switch "
            "widget instead.",
            search_aliases=["switch", "choose", "any", "fallback"],
            inputs=[
                io.Video.Input("video", optional=True, lazy=True, tooltip="The video that is used without override."),
                io.Video.Input(
                    "override",
                    optional=True,
                    lazy=True,
                    tooltip="The video that replaces the other one. Mute its node to use the other one.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="The chosen video.")],
        )

    @classmethod
    def check_lazy_status(cls, video=UNLINKED, override=UNLINKED):
        if override is not UNLINKED:
            return ["override"]
        return [] if video is UNLINKED else ["video"]

    @classmethod
    def execute(cls, video=None, override=None) -> io.NodeOutput:
        if video is None and override is None:
            raise ValueError("Neither video nor override is connected; one of them is expected.")
        return io.NodeOutput(video if override is None else override)


NODES = [StoryReelJoinClips, StoryReelEitherVideo]
