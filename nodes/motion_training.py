"""Training a motion predictor inside the host, since nobody published one."""

from comfy_api.latest import io

from ..core.networks.semantic_motion.config import PredictorConfig
from ..core.training import Plan
from ..core.video.training_plot import draw
from ..host import motion_training as training
from .motion import CATEGORY
from .types import PredictorType

GIVEN = {"start and end": (2, False), "start, end and some between": (2, True), "start alone": (1, False)}
HEAD_WIDTH = 64


class StoryReelTrainMotionPredictor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelTrainMotionPredictor",
            display_name="Train Motion Predictor (StoryReel)",
            category=CATEGORY,
            description="Learns from a folder of clips how image tokens move between two pictures, and says whether "
            "that beats interpolation on clips that it did not see.",
            search_aliases=["SMP", "semantic motion", "training"],
            is_output_node=True,
            inputs=[
                PredictorType.Input(
                    "predictor", tooltip="From Load Motion Predictor, with none: whose image tokens are learnt."
                ),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.String.Input(
                    "clips",
                    default="clips",
                    tooltip="A folder in ComfyUI's input folder with videos of one shot each, and folders in it.",
                ),
                io.String.Input(
                    "name",
                    default="my_motion",
                    tooltip="Of the file in models/semantic_motion. One that is there is never overwritten.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=3,
                    max=64,
                    tooltip="Of the windows that are learnt, at most; ask as many of the predictor. Shorter clips are "
                    "learnt whole.",
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="From one frame of a video that is used to the next: 4 makes 16 frames of 2 seconds at 30 "
                    "a second.",
                ),
                io.Combo.Input(
                    "given", options=list(GIVEN), tooltip="The pictures that the predictor will be asked with."
                ),
                io.Int.Input(
                    "steps",
                    default=10000,
                    min=1,
                    max=10_000_000,
                    tooltip="StoryDiffusion took 100000. An interrupted run goes on where it was.",
                ),
                io.Int.Input("batch", default=16, min=1, max=4096, tooltip="Windows of a step."),
                io.Float.Input(
                    "rate",
                    default=1e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="Of learning: 0.0001 as published.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of first weights, windows and held-out clips.",
                ),
                io.Float.Input(
                    "held_out",
                    default=0.1,
                    min=0.01,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the clips that only tell how good it became.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=HEAD_WIDTH,
                    max=4096,
                    step=HEAD_WIDTH,
                    advanced=True,
                    tooltip="Of the transformer: 1024 as published. Fewer clips than thousands want less.",
                ),
                io.Int.Input(
                    "depth", default=8, min=1, max=48, advanced=True, tooltip="Transformer blocks: 8 as published."
                ),
                io.Float.Input(
                    "cosine",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Weight of the tokens' direction in the loss, beside their squared error.",
                ),
            ],
            outputs=[
                PredictorType.Output(display_name="predictor", tooltip="The trained one, for Predict Motion."),
                io.String.Output(display_name="report", tooltip="What it reached on held-out clips."),
                io.Image.Output(display_name="curve", tooltip="Loss, and held-out error beside interpolation's."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, clips, **_) -> str:
        return training.stamp_of(clips)

    @classmethod
    def execute(
        cls,
        predictor,
        clip_vision,
        clips,
        name,
        frames,
        stride,
        given,
        steps,
        batch,
        rate,
        seed,
        held_out,
        width,
        depth,
        cosine,
    ) -> io.NodeOutput:
        ends, keyframes = GIVEN[given]
        tokens, token_width = predictor.space.shape
        config = PredictorConfig(
            predictor.space.space, tokens, token_width, width, depth, width // HEAD_WIDTH, frames, ends, keyframes
        )
        plan, recipe = Plan(steps, batch, rate, seed), training.Recipe(frames, stride, held_out, cosine)
        made, trained = training.train_in_host(predictor, clip_vision, clips, name, config, plan, recipe)
        report = f"{trained.path.name}: {trained.figures.told}"
        curve = draw(trained.log, trained.figures.mse_interpolation, report)
        return io.NodeOutput(made, report, curve, ui={"text": [report]})


NODES = [StoryReelTrainMotionPredictor]
