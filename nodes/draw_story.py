"""A story of any length, drawn frame by frame in fixed memory."""

from typing import Any

from comfy_api.latest import io

from ..core.attention.bank import DTYPES
from ..host.common.kept_files import kept_files
from ..host.story.latents import MAX_SIZE, SCALE
from ..host.story.shots import SAMPLERS, SCHEDULERS
from .bank_reader import BankReaderNode
from .frame_graph import FrameGraph
from .frame_inputs import StoryFrames
from .node import PreflightNode
from .story import CATEGORY, TRAINED
from .types import BankType, ReferencesType, StoryType


def _drawing_inputs() -> list[io.Input]:
    size: dict[str, Any] = {"default": 0, "min": 0, "max": MAX_SIZE, "step": SCALE}
    return [
        io.Int.Input("width", **size, tooltip=f"Width of every image in pixels, a multiple of 8. {TRAINED}"),
        io.Int.Input("height", **size, tooltip=f"Height of every image in pixels, a multiple of 8. {TRAINED}"),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="The seed of the story. The seed of each frame follows from it and from the frame's prompt; the "
            "table frames gives a frame another one. An interrupted story resumes only with the same seed.",
        ),
        io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Sampling steps of each frame."),
        io.Float.Input("cfg", default=6.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale of the prompts."),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLERS,
            default="euler",
            tooltip="As in KSampler. With samplers that draw noise between their steps, such as the ancestral and SDE "
            "ones, frames are drawn one at a time.",
        ),
        io.Combo.Input("scheduler", options=SCHEDULERS, default="normal", tooltip="As in KSampler."),
    ]


def _sharing_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "anchors",
            default=2,
            min=1,
            max=64,
            tooltip="Anchor frames of each character: the first frames that show it alone. They are drawn first, in "
            "one batch, and all other frames of the character read them. More anchors need more memory.",
        ),
        io.Int.Input(
            "frames_at_once",
            default=1,
            min=1,
            max=64,
            tooltip="Frames that are drawn in one batch, apart from the anchors. The images are the same. More is "
            "faster on a large GPU and needs more memory.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=4.0,
            step=0.01,
            tooltip="Weight of the tokens of other frames: 1 as published, 0 draws every frame by itself.",
        ),
        io.Float.Input(
            "sampling_rate",
            default=0.5,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Fraction of its tokens that an anchor frame shares, at all levels. A higher rate keeps characters "
            "more consistent, is slower and needs more memory. The other settings are those of the preset low-vram of "
            "Consistent Self-Attention.",
        ),
    ]


def _bank_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision",
            options=list(DTYPES),
            default="fp16",
            advanced=True,
            optional=True,
            tooltip="Number format of the recorded anchor frames, as in Record Characters.",
        ),
        io.Combo.Input(
            "device",
            options=["cpu", "gpu"],
            default="cpu",
            advanced=True,
            optional=True,
            tooltip="Where a recording is kept while its batch is drawn, as in Record Characters.",
        ),
        io.Float.Input(
            "max_gb",
            default=8.0,
            min=0.01,
            max=1024.0,
            step=0.01,
            advanced=True,
            optional=True,
            tooltip="The size that the recording of one batch of anchor frames may have, as in Record Characters.",
        ),
    ]


def _retake_inputs() -> list[io.Input]:
    return [
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="An image encoder, which scores how alike a frame and the anchor frames of its characters are. It "
            "is used if retakes is not 0.",
        ),
        io.Int.Input(
            "retakes",
            default=0,
            min=0,
            max=16,
            optional=True,
            tooltip="How often a frame whose score is below retake_threshold is drawn again with another seed, at "
            "most. The try with the highest score is kept. It needs clip_vision.",
        ),
        io.Float.Input(
            "retake_threshold",
            default=1.0,
            min=-1.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="The score below which a frame is drawn again: the mean cosine of clip_vision between the frame "
            "and the anchor frames of its characters. Each encoder has its own range: see the scores in the report. 1 "
            "uses all retakes.",
        ),
    ]


def _reference_inputs() -> list[io.Input]:
    return [
        ReferencesType.Input(
            "references",
            optional=True,
            tooltip="Images of characters, from Character Reference, for editing models. Each frame gets those of its "
            "characters.",
        ),
        io.Boolean.Input(
            "anchor_references",
            default=False,
            optional=True,
            tooltip="With an editing model: the anchor images of a character are reference images of all its other "
            "frames. Characters with references have no anchor frames.",
        ),
    ]


class StoryReelDrawStory(PreflightNode, BankReaderNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDrawStory",
            display_name="Draw Story (StoryReel)",
            category=CATEGORY,
            description="Draws the images of a story of any length in fixed memory, with consistent characters. Each "
            "image is saved before the next one begins. After an interrupt or a crash, press Run again to resume.",
            search_aliases=[
                "long story",
                "consistent characters",
                "resume",
                "redraw frame",
                "lock frame",
                "storyboard",
            ],
            enable_expand=True,
            hidden=BankReaderNode.HIDDEN,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD1.5, SD2.x or SDXL, with or without LoRA and other patches. Or an editing model with "
                    "references or anchor_references: Flux.1 Kontext, Flux.2, Qwen-Image-Edit or Krea 2.",
                ),
                io.Vae.Input("vae", tooltip="The autoencoder of the model."),
                StoryType.Input("story", tooltip="A story from the Story Script node."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder of the checkpoint, which encodes the prompt of each frame. Connect it, "
                    "or positive and negative.",
                ),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="One prompt for each frame, as Encode Story gives them."
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="One prompt for each frame, or one for all."),
                BankType.Input(
                    "bank",
                    optional=True,
                    lazy=True,
                    tooltip="Characters of an earlier story. They need no anchor frames; all frames that show them "
                    "read the bank.",
                ),
                *_drawing_inputs(),
                *_sharing_inputs(),
                io.String.Input(
                    "name",
                    default="story",
                    tooltip="The folder of the images in output/story/frames. Give each story its own.",
                ),
                io.String.Input(
                    "frames",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Seeds and locks, one line a frame, counted from 1. 7 123456: frame 7 gets this seed. "
                    "9 locked: frame 9 keeps its last image. 9 42 locked: both. A # begins a comment.",
                ),
                *_bank_inputs(),
                *_retake_inputs(),
                *_reference_inputs(),
            ],
            outputs=[
                io.Image.Output(tooltip="The images, one for each frame, in the order of the story."),
                BankType.Output(display_name="bank", tooltip="The characters of the story, for another one."),
                io.String.Output(
                    display_name="report",
                    tooltip="One line a frame: its seeds and scores, which try was kept, and what it was compared "
                    "with.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        StoryFrames(**inputs).check()

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        frames = StoryFrames(**inputs)
        frames.check()
        graph, *outputs = FrameGraph(frames, cls.hidden.dynprompt, cls.hidden.unique_id).expand()
        return io.NodeOutput(*outputs, expand=graph)


NODES = [StoryReelDrawStory]
