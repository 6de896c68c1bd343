"""A story's shots along predicted motion: StoryDiffusion's second half, from its pictures to a film."""

from comfy_api.latest import io

from ..host.common.kept_files import kept_files
from ..host.story import shots
from .motion import CATEGORY, sd15_decoder, sd15_decoders
from .node import PreflightNode
from .shots import seed_and_rate
from .types import PredictorType


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
                    options=shots.SAMPLERS,
                    default="ddim",
                    tooltip="As in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=shots.SCHEDULERS,
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
        shots.check_motion(inputs, sd15_decoder(inputs["decoder"]))

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        graph, video = shots.expand_motion(cls.hidden.dynprompt, cls.hidden.unique_id, inputs)
        return io.NodeOutput(video, expand=graph)


NODES = [StoryReelAnimateStoryByMotion]
