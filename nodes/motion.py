"""Semantic motion: two pictures become the image tokens of every frame between, and a video model follows them."""

from comfy_api.latest import io

from ..core.motion import trajectory
from ..core.motion.trajectory_plot import draw
from ..host.common import messages
from ..host.common.folders import file_choices, file_names
from ..host.motion import predict as motion
from ..host.motion.animatediff import FOLDER as MODULES
from ..host.motion.apply import apply_to_dynamicrafter, apply_to_sd15
from ..host.motion.ip_adapter import FOLDER as ADAPTERS
from ..host.motion.ip_adapter import load_tokens
from .node import StoryReelNode
from .story import CATEGORY
from .types import MotionType, PredictorType

CATEGORY = f"{CATEGORY}/Motion"
NONE = "none"
SCHEDULES = {"AnimateDiff's": True, "the model's": False}


def _adapter(tooltip: str) -> io.Combo.Input:
    return io.Combo.Input("ip_adapter", options=file_choices(ADAPTERS), tooltip=tooltip)


def sd15_decoders() -> dict[str, list[io.Input]]:
    """What there is to choose where SD1.5 looks at image tokens, for each way to do so."""
    module = io.Combo.Input(
        "motion_module",
        options=[NONE, *file_names(MODULES)],
        tooltip="AnimateDiff's motion module for SD1.5 (v1, v2 or v3), in models/animatediff_models; v2 is what "
        "StoryDiffusion began with. none: frames know nothing of each other.",
    )
    adapter = _adapter(
        "The file in models/ipadapter that the motion was predicted with: its keys and values look at the tokens."
    )
    strength = io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=4.0,
        step=0.01,
        tooltip="How strongly each frame looks at its tokens; 0 not at all.",
    )
    schedule = io.Combo.Input(
        "noise_schedule",
        options=list(SCHEDULES),
        default="AnimateDiff's",
        tooltip="AnimateDiff's: the one that motion modules were trained with. A sampling node behind this one "
        "takes its place.",
    )
    return {"IP-Adapter": [module, adapter, strength, schedule], "text context": [module, schedule]}


def sd15_decoder(chosen: dict) -> dict:
    """What was chosen there, as `apply_to_sd15` takes it."""
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
            description="StoryDiffusion's Semantic Motion Predictor. Its authors published no weights: choose a file "
            "that you or others trained, or none, which is plain interpolation, untrained.",
            search_aliases=["SMP", "semantic motion", "StoryDiffusion video"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.Combo.Input(
                    "predictor",
                    options=[motion.UNTRAINED, *file_names(motion.FOLDER, (".safetensors",))],
                    tooltip="A file in models/semantic_motion, or none: the tokens between two pictures are then "
                    "interpolated, and nothing is trained.",
                ),
                io.DynamicCombo.Input(
                    "token_space",
                    options=[
                        io.DynamicCombo.Option(
                            "IP-Adapter",
                            [
                                _adapter(
                                    "A file in models/ipadapter: ip-adapter-plus_sd15 (16 tokens a frame), or "
                                    "ip-adapter_sd15 (4). Its image projection makes the tokens."
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "DynamiCrafter",
                            [
                                io.Model.Input(
                                    "model", tooltip="The DynamiCrafter model that will follow the motion: its tokens."
                                )
                            ],
                        ),
                    ],
                    tooltip="Whose image tokens are predicted. IP-Adapter's feed SD1.5, DynamiCrafter's that very "
                    "model. A trained predictor knows one of them.",
                ),
            ],
            outputs=[
                PredictorType.Output(display_name="predictor", tooltip="For Predict Motion."),
                io.String.Output(display_name="model_info", tooltip="What will predict: a file, or interpolation."),
            ],
        )

    @classmethod
    def execute(cls, predictor, token_space) -> io.NodeOutput:
        if token_space["token_space"] == "DynamiCrafter":
            tokens = motion.DynamiCrafterTokens(token_space["model"])
        else:
            tokens = load_tokens(token_space["ip_adapter"])
        found = motion.load_predictor(predictor, tokens)
        return io.NodeOutput(found, found.trained, ui={"text": [found.trained]})


class StoryReelPredictMotion(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelPredictMotion",
            display_name="Predict Motion (StoryReel)",
            category=CATEGORY,
            description="From pictures to the image tokens of every frame of a shot.",
            search_aliases=["SMP", "semantic motion", "in-between", "transition"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                PredictorType.Input("predictor", tooltip="From Load Motion Predictor."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Image.Input("start_image", tooltip="The picture of the first frame; best of the shot's own size."),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The picture of the last frame. Without it the shot stays near its start, unless the "
                    "predictor was trained to leave it.",
                ),
                io.Image.Input(
                    "keyframes", optional=True, tooltip="Any number of pictures to pass on the way, in their order."
                ),
                io.String.Input(
                    "keyframe_positions",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="The frames of the pictures between, counted from 0: 5, 11. Empty: evenly spread.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=2,
                    max=1024,
                    tooltip="Of the shot, first and last included. AnimateDiff and DynamiCrafter were trained on 16; a "
                    "predictor knows as many as it was trained on, 16 if nobody said otherwise.",
                ),
                io.Combo.Input(
                    "easing",
                    options=list(trajectory.EASINGS),
                    default="linear",
                    tooltip="How time goes from each picture to the next; linear as published.",
                ),
                io.Int.Input(
                    "hold_start", default=0, min=0, max=1024, tooltip="So many more frames stay at the start picture."
                ),
                io.Int.Input(
                    "hold_end", default=0, min=0, max=1024, tooltip="So many more frames stay at the end picture."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Of what the predictor adds to the interpolation: 1 as trained, 0 is the interpolation.",
                ),
            ],
            outputs=[MotionType.Output(display_name="motion", tooltip="The tokens of every frame.")],
        )

    @classmethod
    def execute(
        cls,
        predictor,
        clip_vision,
        start_image,
        frames,
        easing,
        hold_start,
        hold_end,
        strength,
        end_image=None,
        keyframes=None,
        keyframe_positions="",
    ) -> io.NodeOutput:
        pictures = motion.pictures_of(start_image, keyframes, end_image)
        knots = motion.knots_of(
            0 if keyframes is None else len(keyframes), keyframe_positions, end_image is not None, frames
        )
        made = motion.predict(predictor, clip_vision, pictures, knots, frames, easing, hold_start, hold_end, strength)
        return io.NodeOutput(made, ui={"text": [made.told]})


class StoryReelSpliceMotions(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelSpliceMotions",
            display_name="Concat Motion (StoryReel)",
            category=CATEGORY,
            description="One motion after the other, in one longer shot.",
            search_aliases=["concatenate", "join motion"],
            inputs=[
                MotionType.Input("first", tooltip="What happens first."),
                MotionType.Input("second", tooltip="What follows; of the same space."),
                io.Int.Input(
                    "overlap",
                    default=1,
                    min=0,
                    max=1024,
                    tooltip="So many last frames of the first fade into as many of the second. 1 where the second "
                    "begins with the picture that the first ends with.",
                ),
            ],
            outputs=[MotionType.Output(display_name="motion", tooltip="Both together.")],
        )

    @classmethod
    def execute(cls, first, second, overlap) -> io.NodeOutput:
        return io.NodeOutput(trajectory.splice(first, second, overlap))


class StoryReelMotionPlot(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelMotionPlot",
            display_name="Plot Motion (StoryReel)",
            category=CATEGORY,
            description="Draws a motion: its path in the plane of most variance, and how far the tokens go from frame "
            "to frame.",
            search_aliases=["PCA", "trajectory"],
            inputs=[MotionType.Input("motion", tooltip="The motion to draw.")],
            outputs=[io.Image.Output(display_name="plot", tooltip="One picture.")],
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
            description="A video model whose frames follow a motion: SD1.5 with a motion module, or DynamiCrafter.",
            search_aliases=["SMP", "AnimateDiff", "IP-Adapter", "semantic motion"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="SD1.5, with or without LoRA and other patches, or a DynamiCrafter model."
                ),
                MotionType.Input("motion", tooltip="From Predict Motion; the LATENT must hold as many frames."),
                io.DynamicCombo.Input(
                    "decoder",
                    options=[
                        *(io.DynamicCombo.Option(name, inputs) for name, inputs in sd15_decoders().items()),
                        io.DynamicCombo.Option("DynamiCrafter", []),
                    ],
                    tooltip="IP-Adapter: SD1.5 through IP-Adapter's layers, with public weights. text context: SD1.5 "
                    "with the tokens behind the text, the paper's formula; it needs a model trained for it, which is "
                    "not public. DynamiCrafter: in place of the checkpoint's own image tokens.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler; frames are the batch of its latent.")],
        )

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
