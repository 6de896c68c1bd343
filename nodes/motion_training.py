"""Training a motion predictor; no trained weights are public."""

from comfy_api.latest import io

from ..core.motion.training_plot import draw
from ..core.networks.semantic_motion.config import PredictorConfig
from ..core.training import TrainConfig
from ..host.common import messages
from ..host.common.kept_files import kept_files
from ..host.motion import training
from ..host.motion.job import DataConfig, DecoderConfig, TrainingJob, VideoModelConfig
from .motion import CATEGORY, NONE, clip_vision_input, sd15_decoder, sd15_decoders
from .node import StoryReelNode, check_option
from .types import PredictorType

# (images at the ends, whether keyframes between them may be given)
CONDITIONING_MODES = {
    "start and end": (2, False),
    "start, end and some between": (2, True),
    "start alone": (1, False),
}
HEAD_WIDTH = 64


def _video_model_inputs(decoder: list[io.Input]) -> list[io.Input]:
    """The inputs of training through a video model. decoder: those of its decoder."""
    return [
        io.Model.Input("model", tooltip="SD1.5, as for Apply Motion. Its weights do not change."),
        io.Vae.Input("vae", tooltip="The VAE of the model. It encodes the frames of the clips once."),
        io.Conditioning.Input("positive", tooltip="A prompt for all clips. It may be empty."),
        *decoder,
        io.Float.Input(
            "loss_weight",
            default=1.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            tooltip="Weight of the video model's error in the loss. 0 trains without the video model.",
        ),
        io.Int.Input(
            "resolution",
            default=256,
            min=64,
            max=1024,
            step=64,
            tooltip="Width and height of the frames' center crops, in pixels. AnimateDiff was trained on 256. Memory "
            "use grows with the square.",
        ),
        io.Int.Input(
            "frames",
            default=8,
            min=1,
            max=64,
            tooltip="Number of consecutive frames that go through the model in each step. Memory use grows with it.",
        ),
    ]


def _video_model_config(chosen: dict | None) -> VideoModelConfig | None:
    if chosen is None or chosen["video_model"] == NONE:
        return None
    names = "model", "vae", "positive", "loss_weight", "resolution", "frames"
    return VideoModelConfig(decoder=DecoderConfig(**sd15_decoder(chosen)), **{name: chosen[name] for name in names})


class StoryReelTrainMotionPredictor(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelTrainMotionPredictor",
            display_name="Train Motion Predictor (StoryReel)",
            category=CATEGORY,
            description="Trains a motion predictor on a folder of video clips, and reports whether it beats "
            "interpolation on held-out clips.",
            search_aliases=["SMP", "semantic motion", "training"],
            is_output_node=True,
            inputs=[
                PredictorType.Input(
                    "predictor", tooltip="From Load Motion Predictor with predictor none. Its token_space is trained."
                ),
                clip_vision_input(),
                io.String.Input(
                    "clips",
                    default="clips",
                    tooltip="A folder in ComfyUI's input folder, with videos of one shot each. Subfolders are "
                    "included.",
                ),
                io.String.Input(
                    "name",
                    default="my_motion",
                    tooltip="Name of the file in models/semantic_motion. An existing file is never overwritten.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=3,
                    max=64,
                    tooltip="Number of frames per training window. Set frames of Predict Motion to the same number. "
                    "Shorter clips are used whole.",
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Use every n-th frame of the videos. With 4, 16 frames are 2 seconds at 30 fps.",
                ),
                io.Combo.Input(
                    "conditioning_mode",
                    options=list(CONDITIONING_MODES),
                    tooltip="Which images the predictor will get in Predict Motion.",
                ),
                io.Int.Input(
                    "steps",
                    default=10000,
                    min=1,
                    max=10_000_000,
                    tooltip="Training steps. StoryDiffusion used 100000. An interrupted run resumes.",
                ),
                io.Int.Input("batch_size", default=16, min=1, max=4096, tooltip="Windows per step."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="0.0001 as published.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the initial weights, the windows and the choice of held-out clips.",
                ),
                io.Float.Input(
                    "validation_split",
                    default=0.1,
                    min=0.01,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the clips that are held out to evaluate the predictor.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=HEAD_WIDTH,
                    max=4096,
                    step=HEAD_WIDTH,
                    advanced=True,
                    tooltip="Width of the transformer. 1024 as published. Use less for fewer than thousands of clips.",
                ),
                io.Int.Input(
                    "depth",
                    default=8,
                    min=1,
                    max=48,
                    advanced=True,
                    tooltip="Number of transformer blocks. 8 as published.",
                ),
                io.Float.Input(
                    "cosine_loss_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Weight of the tokens' cosine error in the loss. Their squared error has weight 1.",
                ),
                io.DynamicCombo.Input(
                    "video_model",
                    optional=True,
                    options=[
                        io.DynamicCombo.Option(NONE, []),
                        *(
                            io.DynamicCombo.Option(name, _video_model_inputs(inputs))
                            for name, inputs in sd15_decoders().items()
                        ),
                    ],
                    tooltip="none: only the tokens are compared. Else the error of a frozen SD1.5 video model is "
                    "added to the loss. The model gets the predicted tokens through IP-Adapter's layers or appended "
                    "to the text. This is much slower.",
                ),
            ],
            outputs=[
                PredictorType.Output(display_name="predictor", tooltip="The trained predictor, for Predict Motion."),
                io.String.Output(display_name="report", tooltip="The result on held-out clips."),
                io.Image.Output(
                    display_name="loss_curve",
                    tooltip="Plot of the loss and of the error on held-out clips, compared with interpolation.",
                ),
            ],
            accept_all_inputs=True,  # so that an option of video_model that there is not is refused instead of ignored
        )

    @classmethod
    def fingerprint_inputs(cls, clips, **_) -> str:
        return f"{training.stamp_of(clips)} {kept_files.generation()}"

    @classmethod
    def validate_inputs(cls, video_model=None) -> bool | str:
        return check_option(cls, "video_model", video_model)

    @classmethod
    def execute(
        cls,
        predictor,
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
        clip_vision=None,
        video_model=None,
        **unknown,
    ) -> io.NodeOutput:
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not an input of this node.")
        ends, in_between = CONDITIONING_MODES[conditioning_mode]
        encoder = predictor.encoder
        job = TrainingJob(
            network=PredictorConfig(
                token_space=encoder.token_space,
                tokens=encoder.shape[0],
                token_width=encoder.shape[1],
                width=width,
                depth=depth,
                heads=width // HEAD_WIDTH,
                frames=frames,
                ends=ends,
                keyframes=in_between,
            ),
            train=TrainConfig(steps, batch_size, learning_rate, seed),
            data=DataConfig(frames, stride, validation_split),
            cosine_loss_weight=cosine_loss_weight,
            video_model=_video_model_config(video_model),
        )
        trained_predictor, trained = training.train_in_host(job, predictor, clip_vision, clips, name)
        kept_files.add(trained.path)
        report = f"{trained.path.name}: {trained.result.summary}"
        messages.warn_missing_charts()
        loss_curve = draw(trained.log, trained.result.mse_interpolation, report)
        return io.NodeOutput(trained_predictor, report, loss_curve, ui={"text": [report]})


NODES = [StoryReelTrainMotionPredictor]
