"""Consistent Self-Attention on the host's diffusion transformers, as an override of their attention function.

The override gets what the attention kernel gets: queries, keys and values of one sequence of text, image and reference
tokens, projected and rotated. It is set for one forward pass by a wrapper of apply_model, onto the override that stands
there then, so the order in which packs patch a MODEL makes no difference.
"""

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...core.attention.positions import Rope
from .families import Family, Forward, block_numbers, blocks_of, choose_blocks
from .sampling_state import KEY, PatchConfig, SamplingState
from .transformer_attention import SharingNetwork, TransformerAttention

OVERRIDE = "optimized_attention_override"


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

    def check(self, model_options: dict) -> None:
        """Later patches are no harm: the override is set when the model runs."""

    def around_model(self, executor, x, t, c_concat=None, context=None, control=None, options=None, **conds):
        """Wraps the model's apply_model."""
        options = dict(options or {})
        state = options.get(KEY) or SamplingState.without_sampler()
        if x.ndim not in (4, 5):
            state.warn_once(f"the model's input has the shape {tuple(x.shape)}, so no tokens are shared.")
            return executor(x, t, c_concat, context, control, options, **conds)
        forward = TransformerAttention(self.sharing, state, Forward(x, context, conds), options.get(OVERRIDE))
        options[OVERRIDE] = forward
        out = executor(x, t, c_concat, context, control, options, **conds)
        if not forward.met:
            state.warn_once("no attention call reached this node, because another patch replaces the attention.")
        return out


def _check_positions(positions: str, rope: Rope | None, name: str) -> None:
    """Raise ValueError for positions that a network does not have."""
    if positions == "same":
        return
    if rope is None:
        raise ValueError(f"positions is {positions}, and {name} has no rotary positions; same is expected.")
    if positions == "reference" and rope.reference is None:
        raise ValueError(
            f"positions is reference, and no model of {name} was trained with reference images; same, beside or dimmed "
            "is expected."
        )
