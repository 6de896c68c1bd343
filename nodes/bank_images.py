"""A bank of a character from photos or drawings."""

from comfy_api.latest import io

from ..core.attention.bank_sets import describe
from ..core.story.script import bare_name
from ..host.attention.bank_from_images import record_images
from ..host.attention.recording import GB
from .node import StoryReelNode
from .record import recording_inputs
from .story import CATEGORY
from .types import BankType


class StoryReelBankFromImages(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelBankFromImages",
            display_name="Bank From Images (StoryReel)",
            category=CATEGORY,
            description="Makes a bank of a character from photos or drawings, so that a story shows somebody whom no "
            "run has drawn. Any style. For SD1.5, SD2.x and SDXL.",
            search_aliases=[
                "reference photo",
                "reference image",
                "IP-Adapter",
                "image to character",
                "character from photo",
                "StoryDiffusion",
                "storyreel_banks",
            ],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A MODEL from Consistent Self-Attention. Its settings say which layers, steps and tokens "
                    "are recorded; nothing is shared between the images.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("images", tooltip="Photos or drawings of one character. One is enough."),
                io.Conditioning.Input(
                    "positive", tooltip="What the images show: one prompt for all images, or one per image."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt of the frames that read the bank."),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The schedule of the frames that read the bank, for instance from BasicScheduler. Other "
                    "schedules read the nearest step.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="The character's name as in the brackets of the story, for instance Pim. Leave it empty "
                    "if the frames that read the bank have no STORY.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the noise that is added to the images.",
                ),
                *recording_inputs(
                    "A bank that would be larger, in GB, is refused before the model runs.", "time and memory", 0.001
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The character in white, one mask for all images or one per image. Only tokens inside are "
                    "recorded, so the background of the images is not copied.",
                ),
            ],
            outputs=[
                BankType.Output(
                    display_name="bank", tooltip="The bank, for Consistent Self-Attention, Draw Story or Save Bank."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        images,
        positive,
        negative,
        sigmas,
        name,
        seed,
        precision,
        device,
        max_gb,
        step_stride,
        mask=None,
    ) -> io.NodeOutput:
        bank = record_images(
            model,
            vae,
            images,
            bare_name(name),
            positive,
            negative,
            sigmas,
            mask=mask,
            seed=seed,
            precision=precision,
            device=device,
            limit=round(max_gb * GB),
            step_stride=step_stride,
        )
        return io.NodeOutput(bank, ui={"text": [describe(bank)]})


NODES = [StoryReelBankFromImages]
