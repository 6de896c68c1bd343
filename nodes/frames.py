"""Some frames of a story: their prompts, latents and images, picked together."""

from comfy_api.latest import io

from ..core.story.frames import read_frames
from ..host.common.conditioning import count_rows
from ..host.common.frame_rows import frames_of_rows, pick_frames, pick_images, pick_latents
from .node import StoryReelNode


class StoryReelPickFrames(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelPickFrames",
            display_name="Pick Frames (StoryReel)",
            category="StoryReel",
            description="Picks frames of a story, prompts, latents and images together, to draw them again or to work "
            "on one image.",
            search_aliases=[
                "redraw frame",
                "latent from batch",
                "conditioning from batch",
                "prompt of a frame",
                "detailer",
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From Encode Story: one prompt for each frame."),
                io.Conditioning.Input("negative", tooltip="From Encode Story, or one prompt for all frames."),
                io.Latent.Input(
                    "latent",
                    tooltip="Either one sample for each frame of the story: the same frames are picked, with their "
                    "noise. Or one sample for each picked frame, for instance encoded images: all are kept.",
                ),
                io.String.Input(
                    "frames", default="1", tooltip="Frame numbers from 1 and ranges, for instance: 2, 4-6."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The images of the story: those of the same frames are picked.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompts of these frames."),
                io.Conditioning.Output(display_name="negative", tooltip="As many negative prompts."),
                io.Latent.Output(display_name="latent", tooltip="The samples of these frames."),
                io.Image.Output(display_name="images", tooltip="The images of these frames, if images is connected."),
            ],
        )

    @classmethod
    def execute(cls, positive, negative, latent, frames, images=None) -> io.NodeOutput:
        count = count_rows(positive)
        numbers = read_frames(frames, count)
        samples = len(latent["samples"])
        if samples not in (count, len(numbers)):
            raise ValueError(
                f"latent holds {samples} samples and positive {count} prompts; as many samples as prompts are "
                f"expected, or as many as the {len(numbers)} picked frames."
            )
        picked = pick_latents(latent, numbers, frames_of_rows(positive)) if samples == count else latent
        prompts = pick_frames(positive, numbers), pick_frames(negative, numbers)
        return io.NodeOutput(*prompts, picked, pick_images(images, numbers, count))


NODES = [StoryReelPickFrames]
