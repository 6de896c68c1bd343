"""Consistent Self-Attention on the host's diffusion transformers, as an override of their attention function.

The override gets what the attention kernel gets: queries, keys and values of one sequence of text, image and reference
tokens, projected and rotated. It is set for one forward pass by a wrapper of apply_model, onto the override that stands
there then, so the order in which packs patch a MODEL makes no difference.
"""

from collections.abc import Callable, Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...core.attention.attention_map import MapLayer
from ...core.attention.positions import Rope
from ..common.attention_override import OVERRIDE
from .families import Family, Forward, block_numbers, blocks_of, choose_blocks
from .sampling_state import KEY, PatchConfig, SamplingState
from .transformer_attention import SharingNetwork, TransformerAttention


class TransformerSeam:
    """A transformer that shares tokens.

    latent_pixels: how many pixels of an image a latent pixel is wide. Raises ValueError for blocks or positions that
    the network does not have.
    """

    def __init__(self, family: Family, network: Any, latent_pixels: int, config: PatchConfig):
        choice = config.patch_range.blocks
        blocks = blocks_of(family, network)
        rope, patch = family.rope(network), family.patch(network)
        _check_positions(config.patch_range.positions, rope, family.name)
        self.sharing = SharingNetwork(
            family,
            network,
            config,
            chosen=choose_blocks(blocks, family.blocks if choice == "auto" else choice, family.name),
            numbers=block_numbers(family, network),
            calls=None if family.calls is None else family.calls(network),
            patch=patch,
            pixels=patch * latent_pixels,
            rope=rope,
        )

    def install(self, model: ModelPatcher) -> None:
        """Patch a clone of the model."""
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_model)

    def reader(self, guider) -> None:
        """No transformer reads a bank."""

    def map_layers(self) -> dict[int, MapLayer]:
        """The blocks of an attention map."""
        kinds = blocks_of(self.sharing.family, self.sharing.network)
        return {
            number: MapLayer(f"{kinds[number] or 'block'} {index}", kinds[number])
            for (_, index), number in self.sharing.numbers.items()
            if number in self.sharing.chosen
        }

    def check(self, model_options: dict) -> None:
        """Later patches are no harm: the override is set when the model runs."""

    def around_model(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        """Wraps the model's apply_model."""
        options = dict(transformer_options or {})
        state = options.get(KEY) or SamplingState.without_sampler()
        if x.ndim not in (4, 5):
            state.warn_once(f"the model's input has the shape {tuple(x.shape)}, so no tokens are shared.")
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)
        state.passes += 1
        options[OVERRIDE] = TransformerAttention(
            self.sharing, state, Forward(x, c_crossattn, conds), options.get(OVERRIDE)
        )
        if self.sharing.family.every_call:
            options["patches_replace"] = _naming(self.sharing.numbers, options.get("patches_replace") or {})
        return executor(x, t, c_concat, c_crossattn, control, options, **conds)

    def describe_run(self, state: SamplingState) -> str | None:
        """Why chosen blocks of a finished run could not share tokens; None if all could."""
        chosen, missed = len(self.sharing.chosen), len(self.sharing.chosen - state.blocks_met)
        if not missed or not state.passes:
            return None
        if missed == chosen:
            return "no attention call reached this node, because another patch replaces the attention."
        return f"{missed} of {chosen} chosen blocks share no tokens, because another patch replaces or skips them."


def _naming(numbers: Mapping[tuple[str, int], int], standing: Mapping[str, dict]) -> dict[str, dict]:
    """Replacements of a network's blocks with which their attention calls name them; they call what stands there."""

    def named(index: int, previous: Callable | None):
        def block(args: dict, extra: dict) -> dict:
            options = {**args["transformer_options"], "block_type": "double", "block_index": index}
            args = {**args, "transformer_options": options}
            return extra["original_block"](args) if previous is None else previous(args, extra)

        return block

    before = standing.get("dit", {})
    ours = {("double_block", index): named(index, before.get(("double_block", index))) for _, index in numbers}
    return {**standing, "dit": {**before, **ours}}


def _check_positions(positions: str, rope: Rope | None, name: str) -> None:
    """Raise ValueError for positions that a network does not have."""
    if positions == "same":
        return
    if rope is None:
        raise ValueError(f"positions is {positions}, and {name} has no rotary positions; same is expected.")
    if positions == "reference" and rope.reference is None:
        raise ValueError(
            f"positions is reference, and this model of {name} was not trained with reference images; same, beside or "
            "dimmed is expected."
        )
