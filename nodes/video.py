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
            description="Transitions one after the other as one clip.",
            search_aliases=["concatenate video", "loop"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Clips of one size, in their order."),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames a second of the video."
                ),
                io.Boolean.Input(
                    "shared_ends",
                    default=True,
                    tooltip="A clip begins with the picture that the one before ends with: keep it once.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="The last frame repeats the first, as a loop's does: leave it out.",
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


UNLINKED = object()  # in the place of an input that nothing is linked to; None is one that was not looked at yet


class StoryReelEitherVideo(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelEitherVideo",
            display_name="Switch Video (StoryReel)",
            category=CATEGORY,
            description="Where two ways of making a video meet. The second one counts where it is there, so that "
            "muting or unmuting its nodes is the choice; the other one is then not made.",
            search_aliases=["switch", "choose", "any", "fallback"],
            inputs=[
                io.Video.Input(
                    "video", optional=True, lazy=True, tooltip="What is taken as long as there is no other."
                ),
                io.Video.Input(
                    "override",
                    optional=True,
                    lazy=True,
                    tooltip="What takes its place. Mute the node that it comes from, and it does not.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="The one that is taken.")],
        )

    @classmethod
    def check_lazy_status(cls, video=UNLINKED, override=UNLINKED):
        if override is not UNLINKED:
            return ["override"]
        return [] if video is UNLINKED else ["video"]

    @classmethod
    def execute(cls, video=None, override=None) -> io.NodeOutput:
        if video is None and override is None:
            raise ValueError("Switch Video: nothing is linked to video and override; one of them is expected.")
        return io.NodeOutput(video if override is None else override)


NODES = [StoryReelJoinClips, StoryReelEitherVideo]
