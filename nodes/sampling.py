"""Samplers and sigmas as the video models were published with."""

from comfy_api.latest import io

from ..host.dynamicrafter import sampling
from .dynamicrafter import CATEGORY
from .node import StoryReelNode


class StoryReelDDIMSampler(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDDIMSampler",
            display_name="DDIM Sampler (StoryReel)",
            category=CATEGORY,
            description="DDIM with eta, exact to the last step: the sampler of DynamiCrafter and StreamingT2V.",
            search_aliases=["DDIM", "eta"],
            inputs=[
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Amount of fresh noise at every step. 1 as published.",
                ),
                io.Boolean.Input(
                    "keep_clean",
                    default=False,
                    advanced=True,
                    tooltip="With a noise mask: insert the masked-out part without noise at every step, as "
                    "DynamiCrafter's own code does.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, eta, keep_clean) -> io.NodeOutput:
        return io.NodeOutput(sampling.DDIM(eta, keep_clean))


class StoryReelDDIMSigmas(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDDIMSigmas",
            display_name="DDIM Sigmas (StoryReel)",
            category=CATEGORY,
            description="The published timesteps as SIGMAS, for any sampler.",
            search_aliases=["uniform", "uniform_trailing", "timestep spacing"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Combo.Input(
                    "spacing",
                    options=list(sampling.schedule.SPACINGS),
                    default="uniform_trailing",
                    tooltip="uniform_trailing for DynamiCrafter 512 and 1024, uniform for DynamiCrafter 256, leading "
                    "for ModelScope and StreamingT2V.",
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="Number of steps. 50 as published; any number works."
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, spacing, steps) -> io.NodeOutput:
        return io.NodeOutput(sampling.sigmas_of(model, spacing, steps))


NODES = [StoryReelDDIMSampler, StoryReelDDIMSigmas]
