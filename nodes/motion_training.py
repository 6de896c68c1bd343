"""Training a motion predictor inside the host, since nobody published one."""

from comfy_api.latest import io

from ..core.motion.training_plot import draw
from ..core.networks.semantic_motion.config import PredictorConfig
from ..core.training import Plan
from ..host.common import messages
from ..host.common.kept_files import kept_files
from ..host.motion import training as training
from ..host.motion.decoder_training import Decoder, Joint
from .motion import CATEGORY, NONE, sd15_decoder, sd15_decoders
from .node import StoryReelNode
from .types import PredictorType

GIVEN = {"start and end": (2, False), "start, end and some between": (2, True), "start alone": (1, False)}
HEAD_WIDTH = 64


def _joint(decoder: list[io.Input]) -> list[io.Input]:
    """What a training through a video model takes, beside what there is to choose of its decoder."""
    return [
        io.Model.Input("model", tooltip="SD1.5, as Apply Motion would be given it. It learns nothing itself."),
        io.Vae.Input("vae", tooltip="The model's own: it encodes the clips' frames, once."),
        io.Conditioning.Input("positive", tooltip="What all clips show; an empty prompt will do."),
        *decoder,
        io.Float.Input(
            "loss_weight",
            default=1.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            tooltip="Of the video model's error in the loss, beside the tokens' own. 0 trains in token space.",
        ),
        io.Int.Input(
            "resolution",
            default=256,
            min=64,
            max=1024,
            step=64,
            tooltip="Sides of the frames' middle squares, in pixels. AnimateDiff was trained on 256. Memory grows with "
            "its square.",
        ),
        io.Int.Input(
            "frames",
            default=8,
            min=1,
            max=64,
            tooltip="So many consecutive frames of a window go through the model in a step. Memory grows with them.",
        ),
    ]


class StoryReelTrainMotionPredictor(StoryReelNode):
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
                    "conditioning_mode",
                    options=list(GIVEN),
                    tooltip="The pictures that the predictor will be asked with.",
                ),
                io.Int.Input(
                    "steps",
                    default=10000,
                    min=1,
                    max=10_000_000,
                    tooltip="StoryDiffusion took 100000. An interrupted run goes on where it was.",
                ),
                io.Int.Input("batch_size", default=16, min=1, max=4096, tooltip="Windows of a step."),
                io.Float.Input(
                    "learning_rate",
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
                    "validation_split",
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
                    "cosine_loss_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Weight of the tokens' direction in the loss, beside their squared error.",
                ),
                io.DynamicCombo.Input(
                    "video_model",
                    optional=True,
                    options=[
                        io.DynamicCombo.Option(NONE, []),
                        *(io.DynamicCombo.Option(name, _joint(inputs)) for name, inputs in sd15_decoders().items()),
                    ],
                    tooltip="none: training in token space. Else SD1.5, which stays as it is, also tells how well it "
                    "finds the clips' frames with the predicted tokens: through IP-Adapter's layers, or with the "
                    "tokens behind the text. Much slower.",
                ),
            ],
            outputs=[
                PredictorType.Output(display_name="predictor", tooltip="The trained one, for Predict Motion."),
                io.String.Output(display_name="report", tooltip="What it reached on held-out clips."),
                io.Image.Output(display_name="loss_curve", tooltip="Loss, and held-out error beside interpolation's."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, clips, **_) -> str:
        return f"{training.stamp_of(clips)} {kept_files.generation()}"

    @classmethod
    def execute(
        cls,
        predictor,
        clip_vision,
        clips,
        name,
        frames,
        stride,
        conditioning_mode,
        steps,
        batch_size,
        learning_rate,
        seed,
        validation_split,
        width,
        depth,
        cosine_loss_weight,
        video_model=None,
    ) -> io.NodeOutput:
        ends, keyframes = GIVEN[conditioning_mode]
        tokens, token_width = predictor.space.shape
        config = PredictorConfig(
            predictor.space.space, tokens, token_width, width, depth, width // HEAD_WIDTH, frames, ends, keyframes
        )
        plan, recipe = (
            Plan(steps, batch_size, learning_rate, seed),
            training.Recipe(frames, stride, validation_split, cosine_loss_weight),
        )
        joint = None
        if video_model is not None and video_model["video_model"] != NONE:
            told = {part: video_model[part] for part in ("model", "vae", "positive", "frames")}
            told |= {"weight": video_model["loss_weight"], "size": video_model["resolution"]}
            joint = Joint(decoder=Decoder(**sd15_decoder(video_model)), **told)
        made, trained = training.train_in_host(predictor, clip_vision, clips, name, config, plan, recipe, joint)
        kept_files.add(trained.path)
        report = f"{trained.path.name}: {trained.figures.told}"
        messages.warn_missing_charts()
        loss_curve = draw(trained.log, trained.figures.mse_interpolation, report)
        return io.NodeOutput(made, report, loss_curve, ui={"text": [report]})


NODES = [StoryReelTrainMotionPredictor]
