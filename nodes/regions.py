"""Where a character stands, for frames with several characters."""

from comfy_api.latest import io

from ..core.story.script import bare_name
from ..host.attention.regions import set_region
from .node import StoryReelNode


class StoryReelCharacterRegion(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelCharacterRegion",
            display_name="Character Region (StoryReel)",
            category="StoryReel",
            description="Says where in the image a character stands. There it reads its own tokens of a bank, and "
            "nowhere else, so two characters in one image keep their own features. One node for each character.",
            search_aliases=["two characters", "regional", "mask", "attention couple", "feature bleeding"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL, before or after Consistent Self-Attention."),
                io.String.Input(
                    "character",
                    default="",
                    tooltip="The name of the character as in the story's brackets: Bob for [Bob].",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The character's place in white, one mask for all images or one per image. A rough box is "
                    "enough.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL for the next region or the sampler.")],
        )

    @classmethod
    def execute(cls, model, character, mask) -> io.NodeOutput:
        return io.NodeOutput(set_region(model, bare_name(character), mask))


NODES = [StoryReelCharacterRegion]
