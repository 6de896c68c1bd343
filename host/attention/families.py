"""The host's diffusion transformers that can share tokens, one row each: what a row holds was read in their classes.

In all of them queries, keys and values reach the attention function projected and rotated, as one sequence

    | tokens before the image | the image's tokens, row by row | tokens behind it |

Text, reference images and padding are the tokens before and behind.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.attention.positions import Rope
from ..common.attention_patches import name_of

# The default blocks. SINGLE rests on a small Flux on the demo data, and on CharaConsist and AlignedGen with Flux.1-dev;
# LAST_HALF on the same small Flux, whose scenes and characters it left whole. Neither was measured on public weights.
SINGLE, LAST_HALF = "single", "last half"


@dataclass(frozen=True)
class Forward:
    """What is known of a forward pass before its first block: the model's input and conditions.

    x: [B, C, h, w] or [B, C, T, h, w]. context: text [B, tokens, width]. conds: the model's other conditions.
    """

    x: Tensor
    context: Tensor | None
    conds: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Family:
    """A class of networks.

    name: as users know it. networks: module and name of the host's classes, found by name, since a host may lack them.
    kinds: [number of blocks, kind of block] of a network, in the order in which the blocks run; "double" (text and
        image have weights of their own), "single" (they share them), or "" where all are alike.
    patch: side of a token in latent pixels, by the network.
    before: number of tokens before the image in a forward pass; None = not known.
    behind: number of tokens behind it, by network, image tokens, transformer_options and forward pass.
    rope: the rotary positions of a network; None = it has none.
    calls: the block of every attention call of a network, in order, None for other attention: for hosts in which the
        calls name no block.
    every_call: all attention calls of a block are over the image; else the first one is.
    blocks: the default choice, see `choose_blocks`.
    """

    name: str
    networks: tuple[str, ...]
    kinds: Callable[[Any], list[tuple[int, str]]]
    patch: Callable[[Any], int]
    before: Callable[[Any, Forward], int | None]
    behind: Callable[[Any, int, dict, Forward], int]
    rope: Callable[[Any], Rope | None]
    calls: Callable[[Any], list[int | None]] | None = None
    every_call: bool = False
    blocks: str = LAST_HALF


def family_of(model: ModelPatcher) -> Family | None:
    """The row of a model's network, by its exact class: a subclass may arrange its tokens otherwise."""
    name = name_of(model.get_model_object("diffusion_model"))
    return next((family for family in FAMILIES if name in family.networks), None)


def blocks_of(family: Family, network) -> list[str]:
    """The kind of every block of a network, in order."""
    return [kind for count, kind in family.kinds(network) for _ in range(count)]


def block_numbers(family: Family, network) -> dict[tuple[str, int], int]:
    """The number of each block by the (block_type, block_index) that its attention calls name. Where all blocks are
    alike, the host calls them double."""
    keys = [(kind or "double", index) for count, kind in family.kinds(network) for index in range(count)]
    return {key: number for number, key in enumerate(keys)}


CHOICES = ("single", "double", "all", "first half", "last half", "every second")


def choose_blocks(blocks: Sequence[str], choice: str, name: str) -> set[int]:
    """The numbers of the blocks that a choice stands for.

    blocks: the kind of each block. choice: one of CHOICES; "every second" counts single blocks where there are any.
    name: of the family, in the error. Raises ValueError for a choice that the family does not have.
    """
    numbers = range(len(blocks))
    offered = [other for other in CHOICES if other not in ("single", "double") or other in blocks]
    if choice not in offered:
        raise ValueError(
            f"blocks is {choice}, and {name} has no such blocks; one of auto, {', '.join(offered)} is expected."
        )
    if choice in ("single", "double"):
        return {number for number in numbers if blocks[number] == choice}
    if choice == "every second":
        counted = [number for number in numbers if blocks[number] == "single"] or list(numbers)
        return set(counted[::2])
    half = len(blocks) // 2
    return set({"all": numbers, "first half": numbers[:half], "last half": numbers[half:]}[choice])


def _references(network, tokens: int, options: dict, forward: Forward) -> int:
    return sum(options.get("reference_image_num_tokens", ()))


def _text(network, forward: Forward) -> int | None:
    return None if forward.context is None else forward.context.shape[1]


def _embed_nd(embedder, reference: float | None = None) -> Rope:
    """The rotary positions of the host's EmbedND."""
    return Rope(tuple(embedder.axes_dim), (float(embedder.theta),) * len(embedder.axes_dim), reference=reference)


def _double_and_single(network) -> list[tuple[int, str]]:
    return [(len(network.double_blocks), "double"), (len(network.single_blocks), "single")]


def _lumina_padding(network, tokens: int, *_) -> int:
    return -tokens % (network.pad_tokens_multiple or 1)


def _wan_reference(network, forward: Forward) -> int:
    reference = forward.conds.get("reference_latent")
    if network.ref_conv is None or reference is None:
        return 0
    return math.prod(_in_patches(side, network.patch_size[1]) for side in reference.shape[-2:])


def _wan_context(network, tokens: int, options: dict, forward: Forward) -> int:
    return sum(
        latent.shape[-3] * math.prod(_in_patches(side, network.patch_size[1]) for side in latent.shape[-2:])
        for latent in forward.conds.get("context_latents") or ()
    )


def _in_patches(side: int, patch: int) -> int:
    return -(-side // patch)


def _cosmos_calls(network) -> list[int | None]:
    """Self-attention, then cross-attention. Hosts before 0.30 do not name the block."""
    return [call for number in range(len(network.blocks)) for call in (number, None)]


def _cosmos_rope(network) -> Rope | None:
    embedder = network.pos_embedder
    spatial, temporal = len(embedder.dim_spatial_range), len(embedder.dim_temporal_range)
    factors = embedder.t_ntk_factor, embedder.h_ntk_factor, embedder.w_ntk_factor
    return Rope(
        (2 * temporal, 2 * spatial, 2 * spatial), tuple(10000.0 * factor for factor in factors), interleaved=False
    )


FAMILIES = (
    Family(
        "Flux",  # Flux.1 with Krea-dev and Kontext, Flux.2
        ("comfy.ldm.flux.model.Flux",),
        kinds=_double_and_single,
        patch=lambda network: network.patch_size,
        before=_text,
        behind=_references,
        rope=lambda network: _embed_nd(network.pe_embedder, network.params.ref_index_scale),
        blocks=SINGLE,
    ),
    Family(
        "Chroma",
        ("comfy.ldm.chroma.model.Chroma",),
        kinds=_double_and_single,
        patch=lambda network: network.patch_size,
        before=_text,
        behind=lambda *_: 0,
        rope=lambda network: _embed_nd(network.pe_embedder),
        blocks=SINGLE,
    ),
    Family(
        "Qwen-Image",  # and Qwen-Image-Edit
        ("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",),
        kinds=lambda network: [(len(network.transformer_blocks), "")],
        patch=lambda network: network.patch_size,
        before=_text,
        behind=_references,
        rope=lambda network: _embed_nd(network.pe_embedder, 1.0),
    ),
    Family(
        "Z-Image and Lumina 2",
        ("comfy.ldm.lumina.model.NextDiT",),
        kinds=lambda network: [(len(network.layers), "")],
        patch=lambda network: network.patch_size,
        before=lambda network, forward: None,  # text and reference images, each filled up
        behind=_lumina_padding,
        rope=lambda network: _embed_nd(network.rope_embedder),
    ),
    Family(
        "SD3 and SD3.5",
        ("comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",),
        kinds=lambda network: [(len(network.joint_blocks), "")],
        patch=lambda network: network.patch_size,
        before=lambda network, forward: None,  # text; nothing in the second attention of a block
        behind=lambda *_: 0,
        rope=lambda network: None,
        every_call=True,  # a block may have a second attention, over the image alone
    ),
    Family(
        "Krea 2",
        ("comfy.ldm.krea2.model.SingleStreamDiT",),
        kinds=lambda network: [(len(network.blocks), "single")],
        patch=lambda network: network.patch,
        before=_text,
        behind=_references,
        rope=lambda network: _embed_nd(network.pe_embedder, 1.0 if network.default_ref_method else None),
        blocks=SINGLE,
    ),
    Family(
        "Anima and Cosmos-Predict2",
        ("comfy.ldm.anima.model.Anima", "comfy.ldm.cosmos.predict2.MiniTrainDIT"),
        kinds=lambda network: [(len(network.blocks), "")],
        patch=lambda network: network.patch_spatial,
        before=lambda network, forward: 0,
        behind=lambda *_: 0,
        rope=_cosmos_rope,
        calls=_cosmos_calls,
    ),
    Family(
        "Wan 2.x",
        ("comfy.ldm.wan.model.WanModel", "comfy.ldm.wan.model.VaceWanModel"),
        kinds=lambda network: [(len(network.blocks), "")],
        patch=lambda network: network.patch_size[1],
        before=_wan_reference,
        behind=_wan_context,
        rope=lambda network: _embed_nd(network.rope_embedder),
    ),
)
