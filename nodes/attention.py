"""Consistent Self-Attention: the frames of a story share tokens."""

from comfy_api.latest import io

from ..core.attention.consistent import Settings
from ..core.attention.positions import POSITIONS
from ..core.attention.presets import FIXED, PRESETS, UNET_BLOCKS
from ..core.attention.sharing import SharingRules
from ..host.attention.attention_record import AttentionRecord
from ..host.attention.families import CHOICES, family_of
from ..host.attention.patch import apply_consistent_attention
from ..host.attention.sampling_state import PatchRange
from ..host.attention.unet_blocks import BLOCKS
from ..host.common import messages
from .bank_reader import BankReaderNode
from .node import check_option, read_values
from .types import BankType, StoryType


def _inputs(preset: str) -> list[io.Input]:
    values = {name: value for name, value in PRESETS[preset].items() if name not in FIXED[preset]}

    def number(name: str, tooltip: str, advanced: bool = True) -> io.Float.Input:
        return io.Float.Input(
            name, default=values[name], min=0.0, max=1.0, step=0.01, optional=True, tooltip=tooltip, advanced=advanced
        )

    def whole(name: str, least: int, tooltip: str, advanced: bool = True) -> io.Int.Input:
        return io.Int.Input(
            name, default=values[name], min=least, max=4096, optional=True, tooltip=tooltip, advanced=advanced
        )

    def switch(name: str, tooltip: str) -> io.Boolean.Input:
        return io.Boolean.Input(name, default=values[name], optional=True, tooltip=tooltip, advanced=True)

    inputs = [
        number(
            "sampling_rate",
            "Fraction of its tokens that a frame shares"
            + (", in a UNet at the coarse level (32 pixels per token)." if "sampling_rate_fine" in values else ".")
            + " A higher rate keeps characters more consistent and is slower. 0: none, 1: all.",
            advanced=False,
        ),
        whole(
            "anchors",
            0,
            "Number of anchor frames per character: the first frames that show it alone. Anchors read each other's "
            "tokens, and all other frames read the anchors' tokens. 0: all frames read each other's tokens.",
            advanced=False,
        ),
        whole(
            "tile_size",
            0,
            "Number of consecutive frames in a sliding window. Frames share tokens only inside a window, and results "
            "of overlapping windows are averaged. 0: one window over the whole batch. Anchors are read from every "
            "window.",
            advanced=preset != "paper",
        ),
        whole("tile_stride", 1, "Number of frames between two windows, at most tile_size. Larger is faster."),
        number("start_percent", "Share tokens from this point of the sampling on (0 is the start)."),
        number("end_percent", "Share tokens up to this point of the sampling (1 is the end)."),
        number("layer_prob_early", "Probability that a layer shares tokens in a step before layer_prob_switch."),
        number("layer_prob_late", "Probability that a layer shares tokens in a step after layer_prob_switch."),
        number(
            "layer_prob_switch",
            "The point of the sampling (0 to 1) at which layer_prob_late replaces layer_prob_early.",
        ),
        io.Combo.Input(
            "blocks",
            options=["auto", *dict.fromkeys((*BLOCKS, *CHOICES))],
            default=values["blocks"],
            optional=True,
            tooltip="The blocks of the network that share tokens. auto: the published choice for a UNet, the single "
            "blocks of Flux, Chroma and Krea 2, the last half of other transformers. up, middle and down are for "
            "UNets; single, double, the halves and every second (of the single blocks where there are any) are for "
            "transformers.",
            advanced=True,
        ),
    ]
    if "sampling_rate_fine" in values:
        inputs.insert(
            1,
            number("sampling_rate_fine", "Fraction of its tokens that a frame shares at the finer levels of a UNet."),
        )
    if "dense_early_read" in values:
        inputs.append(
            switch(
                "dense_early_read",
                "Before start_percent, frames that are not anchors read all tokens of their anchors, as in the first "
                "steps of the published mask version.",
            )
        )
    if "include_self" in values:
        inputs.append(
            switch(
                "include_self",
                "Draw a fixed number of tokens from the whole window, including the frame's own tokens, as in "
                "Algorithm 1 of the paper. Off: each token of the other frames is drawn with the probability "
                "sampling_rate.",
            )
        )
    return inputs


def _read_unprefixed(preset: str, given: dict) -> dict:
    """Inputs of a preset that an API prompt gives without the prefix `preset.`, which the host does not check.

    Raises ValueError for a name that the preset does not have, and for an invalid value.
    """
    declared = _inputs(preset)
    names = [entry.id for entry in declared]
    for name in given:
        if name not in names:
            raise ValueError(f"{name} is not an input of the preset {preset}; its inputs are {', '.join(names)}.")
    return read_values(declared, given)


class StoryReelConsistentAttention(BankReaderNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelConsistentAttention",
            display_name="Consistent Self-Attention (StoryReel)",
            category="StoryReel",
            description="Shares tokens between the images of a batch during sampling, so that characters look the same "
            "in all of them. For SD1.5 to SD3.5, Flux, Chroma, Qwen-Image, Z-Image, Krea 2, Anima and Wan; needs no "
            "training and no extra weights.",
            search_aliases=["StoryDiffusion", "consistent characters", "story", "CSA"],
            enable_expand=True,
            hidden=BankReaderNode.HIDDEN,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A UNet (SD1.5, SD2.x, SDXL) or a transformer (Flux, Chroma, Qwen-Image, Z-Image, "
                    "Lumina 2, SD3, Krea 2, Anima, Cosmos-Predict2, Wan), with or without LoRA and other patches.",
                ),
                io.DynamicCombo.Input(
                    "preset",
                    options=[io.DynamicCombo.Option(preset, _inputs(preset)) for preset in PRESETS],
                    tooltip="low-vram: the program that the authors of StoryDiffusion recommend. mask: their first "
                    "program, with a higher rate and a later start. paper: Algorithm 1 of the paper, with sliding "
                    "windows. custom: all settings.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Weight of shared tokens: 1 as published, 0 disables this node.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the random choice of tokens and layers, independent of the noise seed.",
                ),
                StoryType.Input(
                    "story",
                    optional=True,
                    tooltip="The characters of each frame. A frame reads tokens only of frames that show one of its "
                    "characters; [NC] frames do not share. Without a story, all frames show one character.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The characters in white, one mask for all frames or one per frame. Only tokens inside the "
                    "mask are shared, so backgrounds stay different. Without a mask, the whole image is shared.",
                ),
                BankType.Input(
                    "bank",
                    optional=True,
                    tooltip="Characters that an earlier run recorded, from Record Characters or Load Bank. Frames of "
                    "these characters read the bank and not each other, so a story may have any number of frames.",
                ),
                io.Combo.Input(
                    "apply_to",
                    options=["both", "cond", "uncond"],
                    default="both",
                    optional=True,
                    advanced=True,
                    tooltip="Share tokens in the positive (cond) pass, the negative (uncond) pass, or both.",
                ),
                io.Int.Input(
                    "memory_mb",
                    default=64,
                    min=1,
                    max=65536,
                    optional=True,
                    advanced=True,
                    tooltip="Memory in MB that a layer may use beyond plain attention. A lower limit is slower, with "
                    "the same result.",
                ),
                io.Combo.Input(
                    "positions",
                    options=list(POSITIONS),
                    default="same",
                    optional=True,
                    advanced=True,
                    tooltip="Where shared tokens seem to stand, for transformers with rotary positions. same: where "
                    "they are in their image. beside: one image width to the right. reference: where editing models "
                    "see a reference image. dimmed: in place, with less attraction to the same place. UNets and SD3: "
                    "same.",
                ),
                io.Boolean.Input(
                    "record_attention",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Measure which frame borrows how much from which, for Attention Map. The images are the "
                    "same, and sampling is slower. Off: nothing is measured.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The patched model, for any sampler. The batch of images is the story.")],
            accept_all_inputs=True,  # so that a misspelt name in an API prompt is refused instead of ignored
        )

    @classmethod
    def validate_inputs(cls, preset=None) -> bool | str:
        return check_option(cls, "preset", preset)

    @classmethod
    def execute(
        cls,
        model,
        preset,
        strength,
        seed,
        story=None,
        mask=None,
        bank=None,
        apply_to="both",
        positions="same",
        memory_mb=64,
        record_attention=False,
        **unprefixed,
    ) -> io.NodeOutput:
        unprefixed = _read_unprefixed(preset["preset"], unprefixed)
        given = {name: value for name, value in preset.items() if value is not None}  # None: not in the prompt
        values = {**PRESETS[preset["preset"]], **given, **unprefixed}
        if values["sampling_rate_fine"] != PRESETS[preset["preset"]]["sampling_rate_fine"] and family_of(model):
            messages.warn("sampling_rate_fine has no effect on a transformer, which has one level; set sampling_rate.")
        settings = Settings(
            rules=SharingRules(
                anchors=values["anchors"],
                tile_size=values["tile_size"],
                tile_stride=values["tile_stride"],
                include_self=values["include_self"],
            ),
            sampling_rate=values["sampling_rate"],
            sampling_rate_fine=values["sampling_rate" if preset["preset"] == "paper" else "sampling_rate_fine"],
            layer_prob_early=values["layer_prob_early"],
            layer_prob_late=values["layer_prob_late"],
            strength=strength,
            dense_early_read=values["dense_early_read"],
            seed=seed,
        )
        patch_range = PatchRange(
            blocks=values["blocks"],
            unet_blocks=UNET_BLOCKS[preset["preset"]],
            positions=positions,
            start_percent=values["start_percent"],
            end_percent=values["end_percent"],
            switch_percent=values["layer_prob_switch"],
            apply_to=apply_to,
            extra_bytes=memory_mb << 20,
        )
        cast = None if story is None else story.cast
        attention = AttentionRecord() if record_attention else None
        return io.NodeOutput(
            apply_consistent_attention(model, settings, patch_range, cast, mask, bank, story, attention)
        )


NODES = [StoryReelConsistentAttention]
