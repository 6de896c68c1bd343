"""A story animated shot by shot: from its images to one video."""

from comfy_api.latest import io

from ..core.video import clips
from ..host.common.conditioning import pick_row
from ..host.common.kept_files import kept_files
from ..host.story.shots import SAMPLERS, SCHEDULERS
from .motion import sd15_decoders
from .node import PreflightNode, StoryReelNode
from .shot_graph import DynamiCrafterShots, MotionShots
from .story import CATEGORY
from .types import PredictorType


class StoryReelKeyframePairs(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeyframePairs",
            display_name="Keyframe Pairs (StoryReel)",
            category=CATEGORY,
            description="Pictures of a story, two by two: every node that follows runs once for each transition.",
            search_aliases=["transitions", "keyframes", "interpolate"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures in the story's order, at least two."),
                io.Conditioning.Input(
                    "prompts",
                    optional=True,
                    tooltip="One prompt a transition, as Encode Story gives them; the last one holds on.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="start", is_output_list=True, tooltip="Where each transition starts."),
                io.Image.Output(display_name="end", is_output_list=True, tooltip="Where it ends."),
                io.Conditioning.Output(
                    display_name="prompt", is_output_list=True, tooltip="Its prompt, if there are any."
                ),
            ],
        )

    @classmethod
    def execute(cls, images, prompts=None) -> io.NodeOutput:
        starts, ends = zip(*clips.pairs(images), strict=True)
        told = [pick_row(prompts, number) for number in range(len(starts))] if prompts else []
        return io.NodeOutput(list(starts), list(ends), told)


def seed_and_rate() -> list[io.Input]:
    """The last inputs of what makes a story's shots."""
    seed = io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="Of the first shot; each further one has the next. A story goes on where it was stopped only under the "
        "same seed.",
    )
    rate = io.Float.Input("fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames a second of the video.")
    return [seed, rate]


class StoryReelAnimateStory(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelAnimateStory",
            display_name="Animate Story (StoryReel)",
            category=CATEGORY,
            description="A whole story of pictures as one video, shot by shot. Each shot is on disk before the next "
            "begins: after an interrupt or a crash, press Run again and it goes on from there.",
            search_aliases=["story to video", "keyframes", "resume", "interpolate", "image to video"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Vae.Input(
                    "vae",
                    tooltip="The autoencoder. That of ToonCrafter decodes transitions with details of their ends.",
                ),
                io.Sampler.Input("sampler", tooltip="DDIM Sampler, or any of the host's."),
                io.Sigmas.Input("sigmas", tooltip="From DDIM Sigmas, or any scheduler."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="One prompt a shot, as Encode Story gives them with the text encoder of SD2.x; the last "
                    "one holds on.",
                ),
                io.Conditioning.Input("negative", tooltip="The same, or a single one for all."),
                io.Image.Input("keyframes", lazy=True, tooltip="The pictures of the story, in their order."),
                io.Combo.Input(
                    "mode",
                    options=list(DynamiCrafterShots.MODES),
                    default="interpolate",
                    tooltip="interpolate: from each picture to the next, with 512_interp or ToonCrafter. animate: each "
                    "picture comes to life by itself, with 256, 512 or 1024, and the shots are cut together.",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of the video; a multiple of 64."),
                io.Int.Input(
                    "height", default=320, min=64, max=4096, step=8, tooltip="Of the video; a multiple of 64."
                ),
                io.Int.Input("frames", default=16, min=3, max=4096, tooltip="Of each shot; 16 as trained."),
                io.Int.Input(
                    "fs",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="As in DynamiCrafter Conditioning; 0: what the checkpoint is used with.",
                ),
                io.Float.Input(
                    "cfg_text", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompts lead."
                ),
                io.Float.Input(
                    "cfg_image", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the pictures lead."
                ),
                io.Float.Input(
                    "cfg_rescale",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance rescale, .7 as published, 0 for the 256 checkpoint.",
                ),
                *seed_and_rate(),
            ],
            outputs=[io.Video.Output(tooltip="The whole story, for Save Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        DynamiCrafterShots(**inputs).check()

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        graph, video = DynamiCrafterShots(**inputs).expand(cls.hidden.dynprompt, cls.hidden.unique_id)
        return io.NodeOutput(video, expand=graph)


class StoryReelAnimateStoryByMotion(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelAnimateStoryByMotion",
            display_name="Animate Story by Motion (StoryReel)",
            category=CATEGORY,
            description="A whole story of pictures as one video along predicted motion: the model that drew the "
            "pictures draws the frames between them, too. Each shot is on disk before the next begins: after an "
            "interrupt or a crash, press Run again and it goes on from there.",
            search_aliases=["story to video", "SMP", "semantic motion", "AnimateDiff", "resume", "transition"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="SD1.5, with or without LoRA and other patches."),
                PredictorType.Input("predictor", tooltip="From Load Motion Predictor, its space IP-Adapter."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Vae.Input(
                    "vae", tooltip="The autoencoder. That of ToonCrafter decodes shots with details of their ends."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="One prompt a shot, as Encode Story gives them; the last one holds on."
                ),
                io.Conditioning.Input("negative", tooltip="The same, or a single one for all."),
                io.Image.Input(
                    "keyframes", lazy=True, tooltip="The pictures of the story, in their order, at least two."
                ),
                io.DynamicCombo.Input(
                    "decoder",
                    options=[io.DynamicCombo.Option(name, inputs) for name, inputs in sd15_decoders().items()],
                    tooltip="As in Apply Motion: through IP-Adapter's layers, with public weights, or as the paper has "
                    "it, behind the text.",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of the video."),
                io.Int.Input("height", default=512, min=64, max=4096, step=8, tooltip="Of the video."),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Of each shot, its two pictures included. AnimateDiff was trained on 16; more need the "
                    "host's Context Windows before this node.",
                ),
                io.Int.Input("steps", default=25, min=1, max=10000, tooltip="Of sampling, for each shot."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompts lead."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLERS,
                    default="ddim",
                    tooltip="As in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=SCHEDULERS,
                    default="ddim_uniform",
                    tooltip="As in KSampler.",
                ),
                *seed_and_rate(),
            ],
            outputs=[io.Video.Output(tooltip="The whole story, for Save Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        MotionShots(**inputs).check()

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        graph, video = MotionShots(**inputs).expand(cls.hidden.dynprompt, cls.hidden.unique_id)
        return io.NodeOutput(video, expand=graph)


NODES = [StoryReelKeyframePairs, StoryReelAnimateStory, StoryReelAnimateStoryByMotion]
