"""Semantic motion: predict the image tokens of every frame between images, and condition a video model on them."""

from comfy_api.latest import io

from ..core.motion import trajectory
from ..core.motion.trajectory_plot import draw
from ..host.common import messages
from ..host.common.choices import to_choose
from ..host.common.folders import file_choices, file_names
from ..host.common.huggingface import FOLDER as ENCODERS
from ..host.common.huggingface import encoder_folders, load_image_encoder
from ..host.motion import predict as motion
from ..host.motion.animatediff import FOLDER as MODULES
from ..host.motion.apply import apply_to_dynamicrafter, apply_to_sd15
from ..host.motion.ip_adapter import FOLDER as ADAPTERS
from ..host.motion.ip_adapter import load_token_encoder
from ..host.motion.token_encoders import DynamiCrafterTokenEncoder, FolderTokenEncoder
from .node import StoryReelNode, check_option
from .story import CATEGORY
from .types import MotionType, PredictorType

CATEGORY = f"{CATEGORY}/Motion"
NONE = "none"
SCHEDULES = {"AnimateDiff's": True, "the model's": False}


def _adapter(tooltip: str) -> io.Combo.Input:
    return io.Combo.Input("ip_adapter", options=file_choices(ADAPTERS), tooltip=tooltip)


def clip_vision_input() -> io.ClipVision.Input:
    return io.ClipVision.Input(
        "clip_vision",
        optional=True,
        tooltip="The image encoder: CLIP ViT-H/14. Leave it unconnected if token_space is image encoder.",
    )


def sd15_decoders() -> dict[str, list[io.Input]]:
    """{decoder of SD1.5: its inputs}"""
    module = io.Combo.Input(
        "motion_module",
        options=[NONE, *file_names(MODULES)],
        tooltip="AnimateDiff's motion module for SD1.5 (v1, v2 or v3), in models/animatediff_models. StoryDiffusion "
        "started from v2. none: frames are sampled independently.",
    )
    adapter = _adapter("The IP-Adapter file in models/ipadapter that the motion was predicted with.")
    strength = io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=4.0,
        step=0.01,
        tooltip="Strength of the image tokens. 0 disables them.",
    )
    schedule = io.Combo.Input(
        "noise_schedule",
        options=list(SCHEDULES),
        default="AnimateDiff's",
        tooltip="AnimateDiff's: the noise schedule that motion modules were trained with. A model sampling node after "
        "this one overrides it.",
    )
    return {"IP-Adapter": [module, adapter, strength, schedule], "text context": [module, schedule]}


def sd15_decoder(chosen: dict) -> dict:
    """The chosen values as arguments of `apply_to_sd15`."""
    return {
        "module": None if chosen["motion_module"] == NONE else chosen["motion_module"],
        "adapter": chosen.get("ip_adapter"),
        "strength": chosen.get("strength", 1.0),
        "own_schedule": SCHEDULES[chosen["noise_schedule"]],
    }


class StoryReelMotionPredictorLoader(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelMotionPredictorLoader",
            display_name="Load Motion Predictor (StoryReel)",
            category=CATEGORY,
            description="Loads a Semantic Motion Predictor (StoryDiffusion). The authors published no weights. "
            "Choose a file that you or others trained, or none for plain interpolation.",
            search_aliases=["SMP", "semantic motion", "StoryDiffusion video"],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Combo.Input(
                    "predictor",
                    options=[motion.UNTRAINED, *file_names(motion.FOLDER, (".safetensors",))],
                    tooltip="A file in models/semantic_motion. none: the tokens between the images are interpolated.",
                ),
                io.DynamicCombo.Input(
                    "token_space",
                    options=[
                        io.DynamicCombo.Option(
                            "IP-Adapter",
                            [
                                _adapter(
                                    "A file in models/ipadapter: ip-adapter-plus_sd15 (16 tokens per frame) or "
                                    "ip-adapter_sd15 (4)."
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "DynamiCrafter",
                            [io.Model.Input("model", tooltip="The DynamiCrafter model that Apply Motion will use.")],
                        ),
                        io.DynamicCombo.Option(
                            "image encoder",
                            [
                                io.Combo.Input(
                                    "encoder_folder",
                                    options=to_choose(encoder_folders(), (), ENCODERS),
                                    tooltip="A folder in models/clip_vision with an image encoder for transformers: "
                                    "CLIP or DINOv2. All of its tokens are used.",
                                )
                            ],
                        ),
                    ],
                    tooltip="Which encoder the image tokens come from. Use IP-Adapter for SD1.5, and DynamiCrafter for "
                    "a DynamiCrafter model. image encoder: for experiments. No public video model uses its tokens. A "
                    "trained predictor works with one of them.",
                ),
            ],
            outputs=[
                PredictorType.Output(display_name="predictor", tooltip="For Predict Motion."),
                io.String.Output(display_name="model_info", tooltip="What was loaded: a file, or interpolation."),
            ],
        )

    @classmethod
    def validate_inputs(cls, token_space=None) -> bool | str:
        return check_option(cls, "token_space", token_space)

    @classmethod
    def execute(cls, predictor, token_space) -> io.NodeOutput:
        if token_space["token_space"] == "DynamiCrafter":
            tokens = DynamiCrafterTokenEncoder(token_space["model"])
        elif token_space["token_space"] == "image encoder":
            tokens = FolderTokenEncoder(load_image_encoder(token_space["encoder_folder"]))
        else:
            tokens = load_token_encoder(token_space["ip_adapter"])
        found = motion.load_predictor(predictor, tokens)
        return io.NodeOutput(found, found.description, ui={"text": [found.description]})


class StoryReelPredictMotion(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelPredictMotion",
            display_name="Predict Motion (StoryReel)",
            category=CATEGORY,
            description="Predicts the image tokens of every frame of a shot from its images.",
            search_aliases=["SMP", "semantic motion", "in-between", "transition"],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                PredictorType.Input("predictor", tooltip="From Load Motion Predictor."),
                clip_vision_input(),
                io.Image.Input(
                    "start_image", tooltip="The image of the first frame, preferably in the size of the video."
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The image of the last frame. Without it, motion needs a predictor that was trained with "
                    "the start image only.",
                ),
                io.Image.Input(
                    "keyframes", optional=True, tooltip="Images between start_image and end_image, in order."
                ),
                io.String.Input(
                    "keyframe_positions",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="The frame of each keyframe, counted from 0, with commas: 5, 11. Empty: evenly spaced.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Number of frames of the shot, including the first and the last. AnimateDiff and "
                    "DynamiCrafter were trained on 16. A predictor supports as many as it was trained on.",
                ),
                io.Combo.Input(
                    "easing",
                    options=list(trajectory.EASINGS),
                    default="linear",
                    tooltip="Speed from each image to the next. linear: as published.",
                ),
                io.Int.Input(
                    "hold_start",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Number of further frames that stay at the start image.",
                ),
                io.Int.Input(
                    "hold_end",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Number of further frames that stay at the end image.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Scales what the predictor adds to the interpolation. 1: as trained. 0: interpolation.",
                ),
            ],
            outputs=[
                MotionType.Output(display_name="motion", tooltip="The image tokens of every frame, for Apply Motion.")
            ],
        )

    @classmethod
    def execute(
        cls,
        predictor,
        start_image,
        frames,
        easing,
        hold_start,
        hold_end,
        strength,
        clip_vision=None,
        end_image=None,
        keyframes=None,
        keyframe_positions="",
    ) -> io.NodeOutput:
        images = motion.collect_images(start_image, keyframes, end_image)
        keyframe_indices = motion.parse_keyframe_indices(
            0 if keyframes is None else len(keyframes), keyframe_positions, end_image is not None, frames
        )
        predicted = motion.predict(
            predictor, clip_vision, images, keyframe_indices, frames, easing, hold_start, hold_end, strength
        )
        return io.NodeOutput(predicted, ui={"text": [predicted.description]})


class StoryReelSpliceMotions(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelSpliceMotions",
            display_name="Concat Motion (StoryReel)",
            category=CATEGORY,
            description="Joins two motions to one longer shot.",
            search_aliases=["concatenate", "join motion"],
            inputs=[
                MotionType.Input("first", tooltip="The first motion."),
                MotionType.Input("second", tooltip="The motion that follows. Its token_space must be the same."),
                io.Int.Input(
                    "overlap",
                    default=1,
                    min=0,
                    max=1024,
                    tooltip="Number of frames in which the first motion fades into the second. Use 1 if the second "
                    "starts with the image that the first ends with.",
                ),
            ],
            outputs=[MotionType.Output(display_name="motion", tooltip="The joined motion.")],
        )

    @classmethod
    def execute(cls, first, second, overlap) -> io.NodeOutput:
        return io.NodeOutput(trajectory.concat(first, second, overlap))


class StoryReelMotionPlot(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelMotionPlot",
            display_name="Plot Motion (StoryReel)",
            category=CATEGORY,
            description="Plots a motion: its path in the first two principal components, and the distance of the "
            "tokens from frame to frame.",
            search_aliases=["PCA", "trajectory"],
            inputs=[MotionType.Input("motion", tooltip="The motion to plot.")],
            outputs=[io.Image.Output(display_name="plot", tooltip="The plot as an image.")],
        )

    @classmethod
    def execute(cls, motion) -> io.NodeOutput:
        messages.warn_missing_charts()
        return io.NodeOutput(draw(motion))


class StoryReelApplyMotion(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelApplyMotion",
            display_name="Apply Motion (StoryReel)",
            category=CATEGORY,
            description="Conditions every frame of a video model on a motion: SD1.5 with a motion module, or "
            "DynamiCrafter.",
            search_aliases=["SMP", "AnimateDiff", "IP-Adapter", "semantic motion"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="SD1.5, with or without LoRA and other patches, or a DynamiCrafter model."
                ),
                MotionType.Input(
                    "motion", tooltip="From Predict Motion. The LATENT must have the same number of frames."
                ),
                io.DynamicCombo.Input(
                    "decoder",
                    options=[
                        *(io.DynamicCombo.Option(name, inputs) for name, inputs in sd15_decoders().items()),
                        io.DynamicCombo.Option("DynamiCrafter", []),
                    ],
                    tooltip="IP-Adapter: the tokens enter SD1.5 through IP-Adapter's layers, which have public "
                    "weights. text context: the tokens are appended to the text tokens as in the paper; this needs a "
                    "trained SD1.5 that is not public. DynamiCrafter: the tokens replace the model's own image "
                    "tokens.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler. The latent batch is the video.")],
        )

    @classmethod
    def validate_inputs(cls, decoder=None) -> bool | str:
        return check_option(cls, "decoder", decoder)

    @classmethod
    def execute(cls, model, motion, decoder) -> io.NodeOutput:
        if decoder["decoder"] == "DynamiCrafter":
            return io.NodeOutput(apply_to_dynamicrafter(model, motion))
        return io.NodeOutput(apply_to_sd15(model, motion, **sd15_decoder(decoder)))


NODES = [
    StoryReelMotionPredictorLoader,
    StoryReelPredictMotion,
    StoryReelSpliceMotions,
    StoryReelMotionPlot,
    StoryReelApplyMotion,
]
