"""Reference images of characters, for Draw Story with an editing model."""

from comfy_api.latest import io

from ..core.inputs import read_images
from ..core.story.script import bare_name
from ..host.story.references import References
from .node import StoryReelNode
from .types import ReferencesType


class StoryReelCharacterReference(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelCharacterReference",
            display_name="Character Reference (StoryReel)",
            category="StoryReel",
            description="Gives Draw Story reference images of a character, for models that edit images: Flux.1 "
            "Kontext, Flux.2, Qwen-Image-Edit and Krea 2. One node for each character.",
            search_aliases=["reference latent", "kontext", "edit", "character from photo", "consistent character"],
            inputs=[
                io.String.Input(
                    "character",
                    default="",
                    tooltip="The name of the character as in the story's brackets: Bob for [Bob].",
                ),
                io.Image.Input(
                    "images",
                    tooltip="One image of the character, or several in a batch. Every frame that shows the character "
                    "gets all of them; each makes sampling slower.",
                ),
                ReferencesType.Input(
                    "references", optional=True, tooltip="The references of other characters, from another node."
                ),
            ],
            outputs=[
                ReferencesType.Output(
                    display_name="references", tooltip="For Draw Story, or the node of the next character."
                )
            ],
        )

    @classmethod
    def execute(cls, character, images, references=None) -> io.NodeOutput:
        known = References() if references is None else references
        return io.NodeOutput(known.with_images(bare_name(character), read_images("images", images)))


NODES = [StoryReelCharacterReference]
