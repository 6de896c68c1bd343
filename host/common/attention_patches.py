"""Attention replacements in a MODEL: finding, adding and removing the pack's among those of other packs.

The host stores them by block, or by block and layer, and runs the most specific one only.
"""

from collections.abc import Callable, Iterable, Sequence

from comfy.model_patcher import ModelPatcher

from . import messages

Key = tuple[str, int] | tuple[str, int, int]


def standing(model_options: dict, attention: str) -> dict[Key, Callable]:
    """The replacements of `attention` ("attn1" or "attn2")."""
    return model_options["transformer_options"].get("patches_replace", {}).get(attention, {})


def remove_patches(model: ModelPatcher, attention: str, ours: type) -> None:
    """Remove replacements of class `ours`, and restore what each of them wraps as its `previous`."""
    replacements = standing(model.model_options, attention)
    for key, patch in list(replacements.items()):
        if isinstance(patch, ours):
            if patch.previous is None:
                del replacements[key]
            else:
                replacements[key] = patch.previous


def keys_for(block: tuple[str, int], layers: Iterable[int], replacements: dict[Key, Callable]) -> list[Key]:
    """Where to put a replacement so that it runs in these layers of a block: at the block, and at each layer that has
    a replacement of its own."""
    layers = list(layers)
    apart: list[Key] = [(*block, layer) for layer in layers if (*block, layer) in replacements]
    return apart if len(apart) == len(layers) else [*apart, block]


def warn_overwritten(
    name: str, model_options: dict, attention: str, ours: type, keys: Sequence[Key], node: str | None
) -> None:
    """Warn about later patches that replace or hide those of class `ours` at `keys`.

    name: of the node, in the message. node: the one that shows it, see `messages.warn`.
    """
    replacements = standing(model_options, attention)
    lost = [key for key in keys if key in replacements and not isinstance(replacements[key], ours)]
    lost += [key for key in replacements if key not in keys and key[:2] in keys]
    places = {}
    for key in lost:
        places.setdefault(name_of(replacements[key]), []).append(" ".join(map(str, key)))
    for other, where in places.items():
        messages.warn(
            f"{name}: {other} was applied after this node and replaces it at {', '.join(where)}. Apply it before this "
            "node to use both.",
            node,
        )


def name_of(patch: Callable) -> str:
    """The module and name of another pack's patch; of an object, those of its class."""
    name = getattr(patch, "__qualname__", type(patch).__qualname__)
    return f"{getattr(patch, '__module__', '?')}.{name}"
