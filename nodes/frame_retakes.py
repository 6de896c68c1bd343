"""The node inside Draw Story that draws frames again: it expands into the next try of each, and into itself."""

from comfy_api.latest import io

from ..host.common.graph import GraphBuilder
from .frame_batch import BatchGraph
from .frame_parts import OUTER, shared_inputs
from .node import InnerNode
from .story import CATEGORY
from .types import BankType, TriesType


class StoryReelRetakeFrames(InnerNode):
    outer = OUTER

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelRetakeFrames",
            display_name="Retake Frames (StoryReel)",
            category=CATEGORY,
            description="Inside Draw Story: draws frames, scores them, and draws those again whose scores are too low.",
            is_dev_only=True,
            enable_expand=True,
            hidden=InnerNode.HIDDEN,
            inputs=[
                TriesType.Input("tries", tooltip="The frames, and what they may be."),
                io.Boolean.Input("is_last", tooltip="Whether no further batch reads the bank."),
                BankType.Input("bank", optional=True, tooltip="The bank that the frames read."),
                *shared_inputs(),
            ],
            outputs=[io.String.Output(tooltip="A text that tells the next batch that this one is saved.")],
        )

    @classmethod
    def execute(cls, tries, is_last, after, expansion, bank=None) -> io.NodeOutput:
        run = tries.run
        index, missing = run.scores.settle(tries.numbers)
        if missing:
            graph = GraphBuilder()
            drawn = BatchGraph(run, index, graph).add(tries.batch(missing), "", bank)
            again = graph.node(
                "StoryReelRetakeFrames", tries=tries, is_last=is_last, bank=bank, after=drawn, expansion=expansion
            )
            return io.NodeOutput(again.out(0), expand=graph.finalize())
        if is_last and bank is not None:
            bank.release()
        run.folder.add({}, {number + 1: run.kept(number, index) for number in tries.numbers})
        return io.NodeOutput(" ".join(run.kept(number, index).file for number in tries.numbers))


NODES = [StoryReelRetakeFrames]
