"""Refinement of videos of any length, in chunks without seams."""

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
            description="Denoises a long clip in overlapping chunks. At every step the transition between two chunks "
            "is at another random frame, so that no seam appears. For any video model and sampler.",
            search_aliases=["context windows", "long video", "StreamingT2V", "refine", "SDEdit"],
            inputs=[
                io.Model.Input("model", tooltip="A video model: ModelScope, MS-Vid2Vid, DynamiCrafter, SVD, Wan."),
                io.Int.Input(
                    "chunk_length",
                    default=24,
                    min=2,
                    max=4096,
                    tooltip="Latent frames per chunk. A latent frame is one frame for ModelScope, DynamiCrafter and "
                    "SVD, and four frames for Wan. 24 as published for MS-Vid2Vid; otherwise the length that the "
                    "model was trained on, for example 16 or 25.",
                ),
                io.Int.Input(
                    "overlap",
                    default=8,
                    min=1,
                    max=4095,
                    tooltip="Latent frames that neighboring chunks share. Less than chunk_length. 8 as published.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale, applied to each chunk here; the sampler's own cfg then has no effect. "
                    "7.5 as published. 1: no guidance. 0: leave guidance to the sampler or guider.",
                ),
                io.Float.Input(
                    "cfg_rescale",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Reduces the contrast that guidance exaggerates, computed over each chunk. 0.2 as "
                    "published, 0 for none. Needs cfg above 0.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the random transitions between chunks. It does not affect the noise.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for clips of any length.")],
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
            description="The noise levels with which StreamingT2V refines a clip with MS-Vid2Vid.",
            search_aliases=["Vid2Vid", "SDEdit", "trailing", "denoise"],
            inputs=[
                io.Model.Input("model", tooltip="An MS-Vid2Vid model."),
                io.Int.Input("steps", default=30, min=1, max=500, tooltip="Number of steps. 30 as published."),
                io.Int.Input(
                    "start_timestep",
                    default=blending.refinement.START,
                    min=1,
                    max=blending.refinement.TIMESTEPS - 1,
                    tooltip="The timestep that the clip is noised to. 599 as published; a smaller value keeps more of "
                    "the clip.",
                ),
                io.Boolean.Input(
                    "scale_start",
                    default=True,
                    advanced=True,
                    tooltip="Scale clip and noise at the start as the published code does (0.972 at timestep 599). "
                    "Off: no scaling.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with this start, for the sampler."),
                io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced. Published with dpmpp_2m_sde."),
            ],
        )

    @classmethod
    def execute(cls, model, steps, start_timestep, scale_start) -> io.NodeOutput:
        return io.NodeOutput(*blending.refine(model, steps, start_timestep, scale_start))


NODES = [StoryReelRandomizedBlending, StoryReelRefineSigmas]
