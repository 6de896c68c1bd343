"""Consistent Self-Attention: the frames of a story borrow tokens from each other."""

from comfy_api.latest import io

from ..core.attention.consistent import Settings
from ..core.attention.presets import FIXED, PRESETS
from ..core.attention.sharing import Rules
from ..host.attention.patch import BLOCKS, apply_consistent_attention
from ..host.attention.sampling_state import Reach
from .node import StoryReelNode, read_values
from .types import StoryType


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
            "Share of its tokens that a frame lends"
            + (" at the coarse level (32 pixels a token)." if "sampling_rate_fine" in values else ".")
            + " More holds characters closer together and costs more time; 0 lends nothing, 1 everything.",
            advanced=False,
        ),
        whole(
            "anchors",
            0,
            "The first so many frames in which a character stands alone lend to each other, and every other frame "
            "reads them one way. 0: all frames lend to each other.",
            advanced=False,
        ),
        whole(
            "tile_size",
            0,
            "Frames lend to each other only inside a window of so many consecutive frames that slides along the "
            "story; estimates of overlapping windows are averaged. 0: one window over the whole batch. Anchors are "
            "read from everywhere.",
            advanced=preset != "paper",
        ),
        whole("tile_stride", 1, "How far the window moves at a time; at most its own size. Larger is faster."),
        number("start_percent", "Share tokens from this part of the sampling on (0 is its start)."),
        number("end_percent", "Share tokens up to this part of the sampling (1 is its end)."),
        number("layer_prob_early", "Chance that a layer shares tokens in a step before the switch."),
        number("layer_prob_late", "Chance that a layer shares tokens in a step after the switch."),
        number("layer_prob_switch", "The part of the sampling at which the late chance takes over from the early one."),
        io.Combo.Input(
            "blocks",
            options=list(BLOCKS),
            default=values["blocks"],
            optional=True,
            tooltip="Which part of the network shares tokens. The published programs use the up blocks.",
            advanced=True,
        ),
    ]
    if "sampling_rate_fine" in values:
        inputs.insert(
            1,
            number("sampling_rate_fine", "Share of its tokens that a frame lends at finer levels."),
        )
    if "dense_early_read" in values:
        inputs.append(
            switch(
                "dense_early_read",
                "Before the start, frames that only read take all tokens of their anchors, as the published mask "
                "version does in its first steps.",
            )
        )
    if "include_self" in values:
        inputs.append(
            switch(
                "include_self",
                "Draw a fixed number of tokens from the whole window, the frame's own included, as Algorithm 1 of the "
                "paper does. Off: each token of the other frames is kept with the sampling rate's chance.",
            )
        )
    return inputs


def _read_unprefixed(preset: str, given: dict) -> dict:
    """Inputs of a preset that an API prompt gives by their bare names, which the host does not know.

    Raises ValueError for a name that the preset does not have and for a value that its input refuses.
    """
    declared = _inputs(preset)
    names = [entry.id for entry in declared]
    for name in given:
        if name not in names:
            raise ValueError(f"{name} is no input of the preset {preset}, which has {', '.join(names)}.")
    return read_values(declared, given)


class StoryReelConsistentAttention(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelConsistentAttention",
            display_name="Consistent Self-Attention (StoryReel)",
            category="StoryReel",
            description="Lets the pictures of one batch borrow tokens from each other while they are drawn, so that "
            "characters look the same in all of them. For SD1.5, SD2.x and SDXL; no training, no weights.",
            search_aliases=["StoryDiffusion", "consistent characters", "story", "CSA"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A UNet of SD1.5, SD2.x or SDXL, with or without LoRA and other patches."
                ),
                io.DynamicCombo.Input(
                    "preset",
                    options=[io.DynamicCombo.Option(preset, _inputs(preset)) for preset in PRESETS],
                    tooltip="low-vram: the program that StoryDiffusion's authors recommend. mask: their first one, a "
                    "higher rate that sets in later. paper: Algorithm 1, windows that slide along the story. custom: "
                    "everything open.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Weight of borrowed tokens: 1 as published, 0 is exactly the model without this node.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Which tokens are lent and which layers share; independent of the noise seed.",
                ),
                StoryType.Input(
                    "story",
                    optional=True,
                    tooltip="Who is in which frame: a frame borrows only from frames that show one of its characters, "
                    "and [NC] frames are left alone. Without it all frames show one character.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the characters are, one for all frames or one for each: outside of it a frame "
                    "neither lends nor borrows, so backgrounds stay apart. Without it the whole picture shares.",
                ),
                io.Combo.Input(
                    "apply_to",
                    options=["both", "cond", "uncond"],
                    default="both",
                    optional=True,
                    advanced=True,
                    tooltip="Which half of guidance shares tokens.",
                ),
                io.Int.Input(
                    "memory_mb",
                    default=64,
                    min=1,
                    max=65536,
                    optional=True,
                    advanced=True,
                    tooltip="Memory that a layer may take beyond plain attention. Less is slower, the result the same.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, ready for any sampler; the batch is the story.")],
            accept_all_inputs=True,  # so that a misspelt name in an API prompt is refused instead of ignored
        )

    @classmethod
    def validate_inputs(cls, preset) -> bool | str:
        # The host does not check that there is such a preset: one that it knows arrives as {"preset": name, ...}, any
        # other value as it is.
        return isinstance(preset, dict) or f"preset is {preset}; one of {', '.join(PRESETS)} is expected."

    @classmethod
    def execute(
        cls, model, preset, strength, seed, story=None, mask=None, apply_to="both", memory_mb=64, **unprefixed
    ) -> io.NodeOutput:
        unprefixed = _read_unprefixed(preset["preset"], unprefixed)
        given = {name: value for name, value in preset.items() if value is not None}  # None: left out in the prompt
        values = {**PRESETS[preset["preset"]], **given, **unprefixed}
        settings = Settings(
            rules=Rules(
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
        reach = Reach(
            blocks=values["blocks"],
            start_percent=values["start_percent"],
            end_percent=values["end_percent"],
            switch_percent=values["layer_prob_switch"],
            apply_to=apply_to,
            memory=memory_mb << 20,
        )
        cast = None if story is None else story.cast
        return io.NodeOutput(apply_consistent_attention(model, settings, reach, cast, mask))


NODES = [StoryReelConsistentAttention]
