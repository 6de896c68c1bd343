"""A story animated shot by shot: from its images to one video."""

from comfy_api.latest import io

from ..core.video import clips
from ..host.common.conditioning import pick_row
from ..host.common.kept_files import kept_files
from ..host.story.shots import SAMPLERS, SCHEDULERS
from .dynamicrafter import cfg_inputs
from .motion import sd15_decoders
from .node import PreflightNode, StoryReelNode, check_option
from .shot_families import shots_of
from .shot_graph import MotionShots
from .shot_models import MODES
from .story import CATEGORY
from .types import PredictorType


class StoryReelKeyframePairs(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelKeyframePairs",
            display_name="Keyframe Pairs (StoryReel)",
            category=CATEGORY,
            description="Pairs each image of a story with the next one. The nodes after this one run once for "
            "each pair.",
            search_aliases=["transitions", "keyframes", "interpolate"],
            inputs=[
                io.Image.Input("images", tooltip="The images in the order of the story, at least two."),
                io.Conditioning.Input(
                    "prompts",
                    optional=True,
                    tooltip="One prompt for each transition, as Encode Story gives them. The last one serves "
                    "all that follow.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="start", is_output_list=True, tooltip="The first image of each transition."
                ),
                io.Image.Output(display_name="end", is_output_list=True, tooltip="The last image of each transition."),
                io.Conditioning.Output(
                    display_name="prompt",
                    is_output_list=True,
                    tooltip="The prompt of each transition. Empty if prompts is not connected.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, prompts=None) -> io.NodeOutput:
        starts, ends = zip(*clips.pairs(images), strict=True)
        rows = [pick_row(prompts, number) for number in range(len(starts))] if prompts else []
        return io.NodeOutput(list(starts), list(ends), rows)


def seed_and_rate() -> list[io.Input]:
    """The last inputs of a node that animates a story."""
    seed = io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="The seed of the first shot. Each further shot adds 1. An interrupted story resumes only with the same "
        "seed.",
    )
    rate = io.Float.Input("fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames per second of the video.")
    return [seed, rate]


class StoryReelAnimateStory(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelAnimateStory",
            display_name="Animate Story (StoryReel)",
            category=CATEGORY,
            description="Animates the images of a story, shot by shot, into one video. Each shot is saved before the "
            "next one begins. After an interrupt or a crash, press Run again to resume.",
            search_aliases=["story to video", "keyframes", "resume", "interpolate", "image to video"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A video model: DynamiCrafter, Wan, Wan VACE, LTX, HunyuanVideo 1.5 or Kandinsky 5. The "
                    "help page says what each needs.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder: CLIP ViT-H/14 for DynamiCrafter and Wan 2.1, SigLIP for HunyuanVideo "
                    "1.5. Other models read none.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="The autoencoder of the model. ToonCrafter's restores details of both images when it "
                    "decodes a transition.",
                ),
                io.Sampler.Input("sampler", tooltip="From DDIM Sampler, or any sampler of ComfyUI."),
                io.Sigmas.Input("sigmas", tooltip="From DDIM Sigmas, or any scheduler of ComfyUI."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="One prompt for each shot, from Encode Story with the text encoder of the model. The last "
                    "one serves all shots that follow.",
                ),
                io.Conditioning.Input("negative", tooltip="One prompt for each shot, or one for all."),
                io.Image.Input("keyframes", lazy=True, tooltip="The images in the order of the story."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="interpolate",
                    tooltip="interpolate: each shot goes from an image to the next one. animate: each shot starts from "
                    "one image. The help page says which models do which.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Width of the video in pixels, a multiple of 64 for DynamiCrafter, of 16 or 32 for other "
                    "models.",
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Height of the video in pixels, a multiple of 64 for DynamiCrafter, of 16 or 32 for other "
                    "models.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=3,
                    max=4096,
                    tooltip="Frames of each shot. DynamiCrafter was trained on 16, Wan on 81. Rounded to what the "
                    "model makes: 8k + 1 for LTX, 4k + 1 for others.",
                ),
                io.Int.Input(
                    "fs",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="For DynamiCrafter, see DynamiCrafter Conditioning. 0 takes the default of the checkpoint.",
                ),
                *cfg_inputs(),
                *seed_and_rate(),
                io.Model.Input(
                    "low_noise_model",
                    optional=True,
                    tooltip="Wan 2.2 14B has two models: connect the one for high noise to model, and the one for low "
                    "noise here.",
                ),
                io.Int.Input(
                    "switch_step",
                    optional=True,
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="The step at which low_noise_model takes over, counted from 0. 0: where the noise falls "
                    "below 0.9, as published.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="For Wan VACE: an image of the characters, which all shots follow. The first one counts.",
                ),
                io.Float.Input(
                    "guide_strength",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For LTX: how strictly a shot keeps its images. Less lets it move more.",
                ),
                io.Vae.Input(
                    "audio_vae",
                    optional=True,
                    tooltip="For LTX-2: from Load LTXV Audio VAE. The shots then have sound.",
                ),
                io.String.Input(
                    "seconds",
                    optional=True,
                    default="",
                    tooltip="A length for each shot in seconds, separated by spaces, in place of frames: 5 3.5 4. The "
                    "last one is for all shots that follow. Empty: frames is for all.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="The video of the whole story, for Save Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        shots_of(**inputs).check()

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        shots = shots_of(**inputs)
        shots.check()  # keyframes that were there before have asked for no preflight
        graph, video = shots.expand(cls.hidden.dynprompt, cls.hidden.unique_id)
        return io.NodeOutput(video, expand=graph)


class StoryReelAnimateStoryByMotion(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelAnimateStoryByMotion",
            display_name="Animate Story by Motion (StoryReel)",
            category=CATEGORY,
            description="Animates the images of a story along predicted motion into one video. The model that drew the "
            "images also draws the frames between them. Each shot is saved before the next one begins. After an "
            "interrupt or a crash, press Run again to resume.",
            search_aliases=["story to video", "SMP", "semantic motion", "AnimateDiff", "resume", "transition"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="SD1.5, with or without LoRA and other patches."),
                PredictorType.Input("predictor", tooltip="From Load Motion Predictor, for the tokens of IP-Adapter."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Vae.Input(
                    "vae",
                    tooltip="The autoencoder. ToonCrafter's restores details of both images when it decodes a shot.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="One prompt for each shot, from Encode Story. The last one serves all that follow.",
                ),
                io.Conditioning.Input("negative", tooltip="One prompt for each shot, or one for all."),
                io.Image.Input("keyframes", lazy=True, tooltip="The images in the order of the story, at least two."),
                io.DynamicCombo.Input(
                    "decoder",
                    options=[io.DynamicCombo.Option(name, inputs) for name, inputs in sd15_decoders().items()],
                    tooltip="As in Apply Motion. IP-Adapter: through IP-Adapter's layers, with public weights. "
                    "text context: after the text tokens, as in the paper.",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Width of the video in pixels."),
                io.Int.Input("height", default=512, min=64, max=4096, step=8, tooltip="Height of the video in pixels."),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Frames of each shot, with both images. AnimateDiff was trained on 16. More frames need "
                    "ComfyUI's Context Windows node before this one.",
                ),
                io.Int.Input("steps", default=25, min=1, max=10000, tooltip="Sampling steps of each shot."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale of the prompts."
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
            outputs=[io.Video.Output(tooltip="The video of the whole story, for Save Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def validate_inputs(cls, decoder=None) -> bool | str:
        return check_option(cls, "decoder", decoder)

    @classmethod
    def preflight(cls, **inputs) -> None:
        MotionShots(**inputs).check()

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        graph, video = MotionShots(**inputs).expand(cls.hidden.dynprompt, cls.hidden.unique_id)
        return io.NodeOutput(video, expand=graph)


NODES = [StoryReelKeyframePairs, StoryReelAnimateStory, StoryReelAnimateStoryByMotion]
