"""Recording a bank of characters while a sampler runs."""

from comfy_api.latest import io

from ..core.attention.bank import DTYPES
from ..host.attention.recording import GB, record_characters
from ..host.common import graph
from ..host.common.run_folder import name_of, node_keys
from .node import StoryReelNode
from .types import BankType

NODE_ID = "StoryReelRecordCharacters"


def recording_inputs(refused: str, halved: str, least: float) -> list[io.Input]:
    """How a bank is recorded. refused: what becomes of a larger one. halved: what half of the steps take half of.
    least: of max_gb."""
    return [
        io.Combo.Input(
            "precision",
            options=list(DTYPES),
            default="fp16",
            tooltip="Number format of the bank. fp8 takes half of the memory of fp16 and is less exact. fp32 is for "
            "models that run in fp32.",
        ),
        io.Combo.Input(
            "device",
            options=["cpu", "gpu"],
            default="cpu",
            tooltip="Where the bank is kept. cpu: in main memory, from which it is copied while the GPU computes. gpu: "
            "in the memory of the GPU, faster.",
            advanced=True,
        ),
        io.Float.Input("max_gb", default=8.0, min=least, max=4096.0, step=least, tooltip=refused),
        io.Int.Input(
            "step_stride",
            default=1,
            min=1,
            max=1000,
            tooltip="Record one of so many steps. The steps between read the nearest recorded one. 2 takes half of the "
            f"{halved}.",
            advanced=True,
        ),
    ]


class StoryReelRecordCharacters(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=NODE_ID,
            display_name="Record Characters (StoryReel)",
            category="StoryReel",
            description="Records the characters of a batch into a bank while a sampler draws them. Later frames read "
            "the bank, as many as you like, in the same memory. For SD1.5, SD2.x and SDXL.",
            search_aliases=["StoryDiffusion", "character bank", "id bank", "save character", "write"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A MODEL from Consistent Self-Attention. Its anchors are recorded: of each character the "
                    "first frames that show it alone.",
                ),
                *recording_inputs(
                    "A run whose bank would be larger, in GB, is refused before it starts.", "memory", 0.01
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL for the sampler that draws the anchors."),
                BankType.Output(
                    display_name="bank",
                    tooltip="The characters, for the bank input of Consistent Self-Attention. Nodes that read it run "
                    "after that sampler.",
                ),
            ],
        )

    @classmethod
    async def fingerprint_inputs(cls, **_) -> str | float:
        # The bank holds what the samplers behind this node draw, so it changes with all that they read, also from the
        # samplers that record other banks.
        prompt, own = graph.current_prompt(), cls.hidden.unique_id
        if not prompt.has_node(own):
            return ""
        samplers, upstream = set(), set()
        pending, recorders = {own}, set()
        while pending:
            samplers.update(*(graph.samplers_of(prompt, id) for id in pending))
            upstream, recorders = graph.upstream_of(prompt, samplers), recorders | pending
            pending = {id for id in upstream if prompt.get_node(id)["class_type"] == NODE_ID} - recorders
        if await graph.find_changes(prompt, upstream - recorders):
            return float("nan")
        return name_of(node_keys(prompt, sorted(samplers)))

    @classmethod
    def execute(cls, model, precision, device, max_gb, step_stride) -> io.NodeOutput:
        node = getattr(cls.hidden, "unique_id", "")
        return io.NodeOutput(*record_characters(model, precision, device, round(max_gb * GB), step_stride, node))


NODES = [StoryReelRecordCharacters]
