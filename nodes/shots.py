"""From pictures to transitions, and from transitions to one clip."""

from fractions import Fraction

from comfy_api.latest import InputImpl, Types, io

from ..core.video import clips
from .story import CATEGORY


class StoryReelKeyframePairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeyframePairs",
            display_name="Keyframe Pairs (StoryReel)",
            category=CATEGORY,
            description="Pictures of a story, two by two: every node that follows runs once for each transition.",
            search_aliases=["transitions", "keyframes", "interpolate"],
            inputs=[io.Image.Input("images", tooltip="Pictures in the story's order, at least two.")],
            outputs=[
                io.Image.Output(display_name="start", is_output_list=True, tooltip="Where each transition starts."),
                io.Image.Output(display_name="end", is_output_list=True, tooltip="Where it ends."),
            ],
        )

    @classmethod
    def execute(cls, images) -> io.NodeOutput:
        starts, ends = zip(*clips.pairs(images), strict=True)
        return io.NodeOutput(list(starts), list(ends))


class StoryReelJoinClips(io.ComfyNode):
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
                    "closed",
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
    def execute(cls, images, fps, shared_ends, closed) -> io.NodeOutput:
        joined = clips.join(images, shared_ends[0], closed[0])
        rate = Fraction(fps[0]).limit_denominator(1000)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=joined, audio=None, frame_rate=rate))
        return io.NodeOutput(video, joined)


NODES = [StoryReelKeyframePairs, StoryReelJoinClips]
