"""The included demo model."""

from comfy_api.latest import io

from ..host import storyworld
from ..host.common.loading import PRECISIONS
from .node import StoryReelNode
from .story import CATEGORY

NETWORKS = "unet", "transformer"


class StoryReelLoadStoryworld(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelLoadStoryworld",
            display_name="Load Storyworld (StoryReel)",
            category=CATEGORY,
            description="Loads the included demo model, for trying the pack out and for tests. It draws small heroes "
            "in a simple world at 128 x 128 pixels and knows 60 words (see the help page). Nothing is downloaded.",
            search_aliases=["tiny model", "example model", "storyworld"],
            inputs=[
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the image model. auto: ComfyUI chooses.",
                ),
                io.Boolean.Input(
                    "domain_adapter",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="On: the model draws frames of clips, for Apply Motion and Animate Story by Motion with "
                    "the demo model's motion module. Off: the model draws single images.",
                ),
                io.Combo.Input(
                    "network",
                    options=list(NETWORKS),
                    default="unet",
                    optional=True,
                    tooltip="Image model: unet has Stable Diffusion's layout, transformer has Flux's. They were "
                    "trained on the same images.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The image model, for any sampler: a small UNet or a small Flux."),
                io.Clip.Output(
                    tooltip="The text encoder. It ignores words that it does not know, and a message lists them."
                ),
                io.Vae.Output(tooltip="The autoencoder: 12 latent channels, 8 x 8 pixels for each latent."),
                io.ClipVision.Output(tooltip="The image encoder, trained together with the text encoder."),
            ],
        )

    @classmethod
    def execute(cls, precision, domain_adapter=False, network="unet") -> io.NodeOutput:
        if domain_adapter and network != "unet":
            raise ValueError(f"domain_adapter is for the UNet; network is {network}. Set one of the two back.")
        model = storyworld.load_model(precision, network)
        if domain_adapter:
            model = storyworld.add_domain_adapter(model)
        return io.NodeOutput(model, storyworld.load_clip(), storyworld.load_vae(), storyworld.load_clip_vision())


NODES = [StoryReelLoadStoryworld]
