"""The small trained world that ships with the pack."""

from comfy_api.latest import io

from ..host import storyworld
from ..host.common.loading import PRECISIONS
from .node import StoryReelNode
from .story import CATEGORY


class StoryReelLoadStoryworld(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelLoadStoryworld",
            display_name="Load Storyworld (StoryReel)",
            category=CATEGORY,
            description="A toy world for trying the pack out and for tests: small heroes in a drawn world, 128 x 128 "
            "pixels, a vocabulary of 60 words (see the help page). It ships with the pack; nothing is downloaded.",
            search_aliases=["tiny model", "example model", "storyworld"],
            inputs=[
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the picture model. auto: what the host would choose.",
                ),
                io.Boolean.Input(
                    "domain_adapter",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="On: the model of frames of clips, for Apply Motion and Animate Story by Motion with the "
                    "motion module of this world. Off: the model of single images.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The picture model: a small UNet with v-prediction, for every sampler."),
                io.Clip.Output(tooltip="The text encoder. Words outside its world mean nothing to it, and it says so."),
                io.Vae.Output(tooltip="The autoencoder: 12 latent channels, 8 pixels a side to a latent."),
                io.ClipVision.Output(tooltip="The image encoder, trained together with the text encoder."),
            ],
        )

    @classmethod
    def execute(cls, precision, domain_adapter=False) -> io.NodeOutput:
        model = storyworld.load_model(precision)
        if domain_adapter:
            model = storyworld.add_domain_adapter(model)
        return io.NodeOutput(model, storyworld.load_clip(), storyworld.load_vae(), storyworld.load_clip_vision())


NODES = [StoryReelLoadStoryworld]
