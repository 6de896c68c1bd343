"""Refinement of long videos: any length, in chunks without seams."""

from comfy_api.latest import io

from ..host.streaming import blending
from .node import StoryReelNode
from .story import CATEGORY

CATEGORY = f"{CATEGORY}/StreamingT2V"


class StoryReelRandomizedBlending(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelRandomizedBlending",
            display_name="Randomized Blending (StoryReel)",
            category=CATEGORY,
            description="A long clip is denoised in chunks that hand over at another frame at every step, so that no "
            "frame is a seam. For any video model and any sampler.",
            search_aliases=["context windows", "long video", "StreamingT2V", "refine", "SDEdit"],
            inputs=[
                io.Model.Input("model", tooltip="A video model: ModelScope, MS-Vid2Vid, DynamiCrafter, SVD, Wan."),
                io.Int.Input(
                    "chunk_length",
                    default=24,
                    min=2,
                    max=4096,
                    tooltip="Frames that are denoised together, in frames of the latent: one a picture for ModelScope, "
                    "DynamiCrafter and SVD, one for four pictures for Wan. 24 as published for MS-Vid2Vid; 16 or 25 "
                    "where a model was trained on so many.",
                ),
                io.Int.Input(
                    "overlap",
                    default=8,
                    min=1,
                    max=4095,
                    tooltip="Frames that neighbours share, of the same kind; less than a chunk. 8 as published.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance (CFG), done here for each chunk: the sampler's own cfg then has no effect. 7.5 "
                    "as published; 1: without. 0: left to the sampler or guider.",
                ),
                io.Float.Input(
                    "cfg_rescale",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pulls contrast back that guidance exaggerates, over each chunk: 0.2 as published, 0: "
                    "without. Only of guidance that is done here.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the frames at which chunks hand over, not of the noise.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, which now takes clips of any length.")],
        )

    @classmethod
    def execute(cls, model, chunk_length, overlap, cfg, cfg_rescale, seed) -> io.NodeOutput:
        return io.NodeOutput(blending.patch_blending(model, chunk_length, overlap, cfg, cfg_rescale, seed))


class StoryReelRefineSigmas(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelRefineSigmas",
            display_name="Refine Sigmas (StoryReel)",
            category=CATEGORY,
            description="The noise levels at which StreamingT2V refines a clip by MS-Vid2Vid.",
            search_aliases=["Vid2Vid", "SDEdit", "trailing", "denoise"],
            inputs=[
                io.Model.Input("model", tooltip="An MS-Vid2Vid model."),
                io.Int.Input("steps", default=30, min=1, max=500, tooltip="30 as published."),
                io.Int.Input(
                    "start_timestep",
                    default=blending.refinement.START,
                    min=1,
                    max=blending.refinement.TIMESTEPS - 1,
                    tooltip="The timestep that the clip is noised to: 599 as published, less keeps more of it.",
                ),
                io.Boolean.Input(
                    "scale_start",
                    default=True,
                    advanced=True,
                    tooltip="Begin as the published program does, with clip and noise times 0.972 (at 599). Off: with "
                    "all of both, as the mathematics has it.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which begins so. For the sampler."),
                io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced; published with dpmpp_2m_sde."),
            ],
        )

    @classmethod
    def execute(cls, model, steps, start_timestep, scale_start) -> io.NodeOutput:
        return io.NodeOutput(*blending.refine(model, steps, start_timestep, scale_start))


NODES = [StoryReelRandomizedBlending, StoryReelRefineSigmas]
