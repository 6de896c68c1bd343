"""Nodes that read a bank run after the sampler that records it.

Record Characters gives its bank before the sampler behind it has run. The host orders nodes by links alone, and no link
leads from that sampler to the reader. So a reader that finds a bank whose run has not ended expands into itself behind
all samplers of that run.
"""

from comfy_api.latest import io

from ..core.attention.bank import Bank
from ..host.common.graph import GraphBuilder, depends_on, new_expansion, samplers_of
from .node import InnerNode, StoryReelNode, flat_inputs
from .types import BankType

UNRECORDED = (
    "bank comes from Record Characters, and no sampler has recorded into it: connect the MODEL of Record Characters to "
    "a sampler that runs before this node, or unmute that sampler."
)
NOT_SAMPLED = (
    "bank comes from Record Characters, and the samplers behind it recorded nothing. Either they sample another MODEL, "
    "or ComfyUI kept their results of an earlier run and dropped the recording to free memory; then change their seed "
    "and queue again."
)


class BankReaderNode(StoryReelNode):
    """A node with inputs of banks. Its schema needs `HIDDEN` and enable_expand."""

    HIDDEN = [io.Hidden.unique_id, io.Hidden.dynprompt]

    @classmethod
    def expand_first(cls, values: dict) -> io.NodeOutput | None:
        schema = cls.FINALIZE_SCHEMA()
        flat = flat_inputs(schema.inputs, values)
        unfinished = {
            name: bank for name, bank in flat.items() if isinstance(bank, Bank) and bank.node and not bank.finished
        }
        if not unfinished:
            return None
        if cls.hidden is None:  # no graph runs that could record it
            raise ValueError(UNRECORDED)
        prompt, own = cls.hidden.dynprompt, cls.hidden.unique_id
        graph, expansion = GraphBuilder(), new_expansion()
        for name, bank in unfinished.items():
            samplers = [id for id in samplers_of(prompt, bank.node) if not depends_on(prompt, id, own)]
            if not samplers:
                raise ValueError(UNRECORDED)
            after = {f"after_{number}": [id, 0] for number, id in enumerate(samplers)}
            flat[name] = graph.node("StoryReelRecordedBank", bank=bank, expansion=expansion, **after).out(0)
        again = graph.node(schema.node_id, **flat)
        return io.NodeOutput(*(again.out(number) for number in range(len(schema.outputs))), expand=graph.finalize())


class StoryReelRecordedBank(InnerNode):
    outer = ("StoryReelConsistentAttention", "StoryReelSaveBank", "StoryReelMergeBanks", "StoryReelDrawStory")

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelRecordedBank",
            display_name="Recorded Bank (StoryReel)",
            category="StoryReel",
            description="Inside a node that reads a bank: gives the bank once its sampler has run.",
            is_dev_only=True,
            is_input_list=True,  # a sampler that the host calls for each entry of a list gives several outputs
            hidden=InnerNode.HIDDEN,
            inputs=[
                BankType.Input("bank", tooltip="The bank of Record Characters."),
                io.String.Input("expansion", tooltip="The expansion that the node belongs to."),
            ],
            outputs=[BankType.Output(display_name="bank", tooltip="The recorded bank.")],
            accept_all_inputs=True,  # the samplers that run before
        )

    @classmethod
    def execute(cls, bank: list[Bank], expansion: list[str], **after) -> io.NodeOutput:
        (recorded,) = bank
        if not recorded.recordings:
            raise ValueError(NOT_SAMPLED)
        return io.NodeOutput(Bank(recorded.recordings))


NODES = [StoryReelRecordedBank]
