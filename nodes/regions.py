"""Where characters stand, for frames with several of them."""

from comfy_api.latest import io

from ..core.story.script import bare_name
from ..host.attention.find_characters import find_characters
from ..host.attention.regions import set_region
from .node import StoryReelNode


class StoryReelCharacterRegion(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelCharacterRegion",
            display_name="Character Region (StoryReel)",
            category="StoryReel",
            description="Says where in the image a character stands. There it reads its own tokens, and nowhere else, "
            "so two characters in one image keep their own features. One node for each character.",
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


class StoryReelFindCharacters(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelFindCharacters",
            display_name="Find Characters (StoryReel)",
            category="StoryReel",
            description="Finds where each character of the story stands while the images are sampled, from the "
            "attention to the words that describe it. There it reads its own tokens, and nowhere else. No masks to "
            "paint.",
            search_aliases=["two characters", "automatic mask", "subject mask", "cross-attention", "feature bleeding"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL, before or after Consistent Self-Attention."),
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder that encodes the story. Its tokenizer says where the words of each "
                    "character stand in a prompt.",
                ),
                io.Float.Input(
                    "dropout",
                    default=0.0,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    tooltip="Fraction of the tokens of a found character that is not shared, drawn anew in each step. "
                    "Sharing fewer tokens leaves poses more freedom. It adds to sampling_rate of Consistent "
                    "Self-Attention.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Look for characters from this point of the sampling on (0 is the start). The first steps "
                    "show them least clearly. Until they are found, images are read as a whole.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL for Consistent Self-Attention or the sampler.")],
        )

    @classmethod
    def execute(cls, model, clip, dropout, start_percent) -> io.NodeOutput:
        return io.NodeOutput(find_characters(model, clip, dropout, start_percent))


NODES = [StoryReelCharacterRegion, StoryReelFindCharacters]
