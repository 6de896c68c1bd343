"""The nodes inside Draw Story: noise by frame, banks from disk, finished frames to disk, and all images at the end."""

import json

from comfy_api.latest import io

from ..host.common.kept_files import kept_files
from ..host.story import drawn_frames
from ..host.story.drawn_frames import Drawn, FrameFolder
from ..host.story.frame_banks import StoredBank, keep_bank
from ..host.story.noise import FrameNoise
from .frame_report import report
from .node import InnerNode
from .story import CATEGORY
from .types import BankType, FrameRunType

OUTER = ("StoryReelDrawStory", "StoryReelRetakeFrames")


def shared_inputs() -> list[io.Input]:
    return [
        io.String.Input("after", default="", tooltip="The batch before this one."),
        InnerNode.expansion_of("Draw Story"),
    ]


class StoryReelFrameNoise(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelFrameNoise",
            display_name="Frame Noise (StoryReel)",
            category=CATEGORY,
            description="Inside Draw Story: the noise of a batch whose frames have seeds of their own, once the batch "
            "before it is saved.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[io.String.Input("seeds", tooltip="A seed for each frame of the batch."), *shared_inputs()],
            outputs=[io.Noise.Output(tooltip="The noise of the batch.")],
        )

    @classmethod
    def execute(cls, seeds, after, expansion) -> io.NodeOutput:
        return io.NodeOutput(FrameNoise([int(seed) for seed in seeds.split()]))


class StoryReelTakeBanks(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelTakeBanks",
            display_name="Take Banks (StoryReel)",
            category=CATEGORY,
            description="Inside Draw Story: the banks of the characters of a batch, from disk.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.String.Input("name", tooltip="The folder of the story."),
                io.String.Input("keys", tooltip="The keys of the anchor groups."),
                BankType.Input("bank", optional=True, tooltip="A bank that Draw Story got."),
                *shared_inputs(),
            ],
            outputs=[BankType.Output(tooltip="The banks as one.")],
        )

    @classmethod
    def execute(cls, name, keys, after, expansion, bank=None) -> io.NodeOutput:
        folder = FrameFolder(name)
        return io.NodeOutput(StoredBank([folder.bank_path(key) for key in keys.split()], bank))


class StoryReelTakeFrames(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelTakeFrames",
            display_name="Take Frames (StoryReel)",
            category=CATEGORY,
            description="Inside Draw Story: anchor images from disk, as reference images of other frames.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.String.Input("name", tooltip="The folder of the story."),
                io.String.Input("files", tooltip="The images."),
                *shared_inputs(),
            ],
            outputs=[io.Image.Output(tooltip="The images.")],
        )

    @classmethod
    def execute(cls, name, files, after, expansion) -> io.NodeOutput:
        return io.NodeOutput(FrameFolder(name).read_images(files.split()))


class StoryReelKeepFrames(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeepFrames",
            display_name="Keep Frames (StoryReel)",
            category=CATEGORY,
            description="Inside Draw Story: decodes a batch and writes its images to the output folder.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled batch."),
                io.Vae.Input("vae", tooltip="The autoencoder."),
                io.String.Input("name", tooltip="The folder of the story."),
                io.String.Input("images", tooltip="Key and file of each image, as JSON."),
                io.String.Input("frames", tooltip="The frames whose images they are, as JSON."),
                io.String.Input("group", default="", tooltip="The key of the anchor group, if the batch is one."),
                BankType.Input("recorded", optional=True, tooltip="The bank that recorded the anchor group."),
                BankType.Input("done", optional=True, tooltip="A bank that no further batch reads."),
                InnerNode.expansion_of("Draw Story"),
            ],
            outputs=[io.String.Output(tooltip="A text that tells the next batch that this one is saved.")],
        )

    @classmethod
    def execute(cls, samples, vae, name, images, frames, group, expansion, recorded=None, done=None) -> io.NodeOutput:
        folder, named = FrameFolder(name), json.loads(images)
        if done is not None:
            done.release()
        pixels = drawn_frames.decode(vae, samples["samples"])
        if recorded is not None:
            keep_bank(recorded, folder.bank_path(group))
        for image, (_, file) in zip(pixels, named, strict=True):
            folder.write_image(file, image)
        numbers = {int(number): Drawn(**drawn) for number, drawn in json.loads(frames).items()}
        folder.add(dict(named), numbers, [group] if group else [])
        return io.NodeOutput(" ".join(key for key, _ in named))


class StoryReelCollectFrames(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelCollectFrames",
            display_name="Collect Frames (StoryReel)",
            category=CATEGORY,
            description="Inside Draw Story: reads all images of the story from disk.",
            is_dev_only=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                io.String.Input("name", tooltip="The folder of the story."),
                io.String.Input("files", tooltip="The images, in the order of the story."),
                io.String.Input("keys", tooltip="The keys of the anchor groups."),
                BankType.Input("bank", optional=True, tooltip="A bank that Draw Story got."),
                FrameRunType.Input("run", optional=True, tooltip="Knows which tries of a frame are kept."),
                *shared_inputs(),
            ],
            outputs=[
                io.Image.Output(tooltip="The images in the order of the story."),
                BankType.Output(tooltip="The banks of all characters as one."),
                io.String.Output(tooltip="What was tried for each frame."),
            ],
        )

    @classmethod
    def execute(cls, name, files, keys, after, expansion, bank=None, run=None) -> io.NodeOutput:
        folder, files = FrameFolder(name), files.split()
        banks, text = [folder.bank_path(key) for key in keys.split()], ""
        kept_files.add(*banks)
        if run is not None:
            index = folder.read()
            files = [run.kept(number, index).file for number in range(len(files))]
            text = report(run, index)
        return io.NodeOutput(folder.read_images(files), StoredBank(banks, bank), text)


NODES = [StoryReelFrameNoise, StoryReelTakeBanks, StoryReelTakeFrames, StoryReelKeepFrames, StoryReelCollectFrames]
