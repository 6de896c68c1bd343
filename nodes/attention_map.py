"""What frames borrowed from each other, as an image and a table."""

from comfy_api.latest import io

from ..core.attention import map_chart, map_report
from ..core.attention.attention_map import CONDS
from ..host.attention.attention_record import record_of
from .node import PreflightNode
from .story import CATEGORY


class StoryReelAttentionMap(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelAttentionMap",
            display_name="Attention Map (StoryReel)",
            category=CATEGORY,
            description="Shows which frame of a story borrowed how much from which, by layer and step, after the "
            "sampler has run. Switch on record_attention of Consistent Self-Attention.",
            search_aliases=["heat map", "attention visualization", "debug", "consistency"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The MODEL that the sampler gets, from a Consistent Self-Attention with record_attention "
                    "switched on.",
                ),
                io.Latent.Input(
                    "latent", lazy=True, tooltip="The LATENT that this sampler gives. The map is of that run."
                ),
                io.Combo.Input(
                    "part",
                    options=list(CONDS),
                    default="cond",
                    tooltip="cond: what the positive prompts read. uncond: what the negative prompt reads.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="map",
                    tooltip="Who borrows from whom, and how much in which layer and step. Dark is much.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="All numbers in %, separated by tabs, for a spreadsheet: for the whole run, by layers and "
                    "by steps.",
                ),
            ],
        )

    @classmethod
    def preflight(cls, model, **_) -> None:
        record_of(model)

    @classmethod
    def execute(cls, model, latent, part) -> io.NodeOutput:
        found = record_of(model).map_of(latent["samples"])
        if found is None:
            raise ValueError(
                "no run of model is recorded: the sampler uses another MODEL, or ComfyUI kept its result of an earlier "
                "session; connect the MODEL that the sampler uses, or change its seed, and queue again."
            )
        cond = CONDS.index(part)
        if cond not in found.conds:
            raise ValueError(
                f"part is {part}, and this run did not compute it (cfg 1 skips uncond); choose {CONDS[1 - cond]}."
            )
        return io.NodeOutput(map_chart.draw(found, cond), map_report.in_words(found, cond))


NODES = [StoryReelAttentionMap]
