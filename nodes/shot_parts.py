"""The nodes inside Animate Story: they take the keyframes of a shot, keep the shot on disk and join all shots."""

from comfy_api.latest import io

from ..host.common.kept_files import kept_files
from ..host.story import shots as shots_on_disk
from .node import InnerNode
from .story import CATEGORY

OUTER = ("StoryReelAnimateStory", "StoryReelAnimateStoryByMotion")


class StoryReelTakeKeyframes(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelTakeKeyframes",
            display_name="Take Keyframes (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: gives the first and last image of a shot once the shot before it "
            "is saved.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.Image.Input("images", tooltip="The images of the story."),
                io.Int.Input("index", default=0, min=0, tooltip="The number of the shot, from 0."),
                io.String.Input("after", default="", tooltip="The shot before this one."),
                InnerNode.expansion_of("Animate Story"),
            ],
            outputs=[
                io.Image.Output(display_name="start", tooltip="The first image of the shot."),
                io.Image.Output(display_name="end", tooltip="The last image of the shot."),
            ],
        )

    @classmethod
    def execute(cls, images, index, after, expansion) -> io.NodeOutput:
        return io.NodeOutput(*shots_on_disk.take(images, index))


class StoryReelGivenFrames(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelGivenFrames",
            display_name="Given Frames (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: gives a gray video with the images of a shot in their places, and masks "
            "of what is to be made.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.Image.Input("start_image", tooltip="The first image of the shot."),
                io.Image.Input("end_image", optional=True, tooltip="The last image of the shot."),
                io.Int.Input("frames", min=2, tooltip="Frames of the shot."),
                io.Int.Input("width", min=16, tooltip="Width in pixels."),
                io.Int.Input("height", min=16, tooltip="Height in pixels."),
            ],
            outputs=[
                io.Image.Output(display_name="video", tooltip="The images, and gray frames between them."),
                io.Mask.Output(display_name="masks", tooltip="0 for given frames, 1 for others."),
            ],
        )

    @classmethod
    def execute(cls, start_image, frames, width, height, end_image=None) -> io.NodeOutput:
        return io.NodeOutput(*shots_on_disk.given_frames(start_image, end_image, frames, width, height))


class StoryReelKeepShot(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeepShot",
            display_name="Keep Shot (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: decodes a shot and writes it to the output folder.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled shot."),
                io.Vae.Input("vae", tooltip="The autoencoder."),
                io.Image.Input("start_image", tooltip="The first image of the shot."),
                io.Image.Input("end_image", optional=True, tooltip="The last image of the shot."),
                io.String.Input("run", tooltip="The key of the run."),
                io.String.Input("shot", tooltip="The name of the shot."),
                io.Float.Input("fps", min=0.1, max=240.0, tooltip="Frames per second."),
                InnerNode.expansion_of("Animate Story"),
                io.Audio.Input("audio", optional=True, tooltip="The sound of the shot."),
            ],
            outputs=[io.String.Output(tooltip="A text that tells the next shot that this one is saved.")],
        )

    @classmethod
    def execute(cls, samples, vae, start_image, run, shot, fps, expansion, end_image=None, audio=None) -> io.NodeOutput:
        shots_on_disk.keep(samples["samples"], vae, start_image, end_image, run, shot, fps, audio)
        return io.NodeOutput(f"{run} {shot}")


class StoryReelJoinShots(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelJoinShots",
            display_name="Join Shots (StoryReel)",
            category=CATEGORY,
            description="Inside Animate Story: joins the saved shots into one video.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.String.Input("run", tooltip="The key of the run."),
                io.String.Input("shots", tooltip="The names of the shots, in their order."),
                io.String.Input("after", default="", tooltip="The last shot."),
                io.Boolean.Input(
                    "shared_ends", tooltip="On: each shot begins with the last frame of the shot before it."
                ),
                io.Float.Input("fps", min=0.1, max=240.0, tooltip="Frames per second."),
                InnerNode.expansion_of("Animate Story"),
            ],
            outputs=[io.Video.Output(tooltip="The video of the whole story.")],
        )

    @classmethod
    def execute(cls, run, shots, after, shared_ends, fps, expansion) -> io.NodeOutput:
        video = shots_on_disk.join(run, shots.split(), shared_ends, fps)
        kept_files.add(video.get_stream_source())
        return io.NodeOutput(video)


NODES = [StoryReelTakeKeyframes, StoryReelGivenFrames, StoryReelKeepShot, StoryReelJoinShots]
