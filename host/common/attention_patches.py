"""Replacements of attention in a MODEL: those that stand there, and ours among them.

The host keeps them by block, or by block and layer; it runs the most specific key alone.
"""

from collections.abc import Callable, Iterable, Sequence

from comfy.model_patcher import ModelPatcher

from . import messages

Key = tuple[str, int] | tuple[str, int, int]


def standing(model_options: dict, attention: str) -> dict[Key, Callable]:
    """The replacements of `attention` ("attn1" or "attn2")."""
    return model_options["transformer_options"].get("patches_replace", {}).get(attention, {})


def take_out(model: ModelPatcher, attention: str, ours: type) -> None:
    """Remove replacements of our class, and put back what each of them had wrapped as its `previous`."""
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
    apart = [(*block, layer) for layer in layers if (*block, layer) in replacements]
    return apart if len(apart) == len(layers) else [*apart, block]


def warn_of_lost(
    name: str, model_options: dict, attention: str, ours: type, keys: Sequence[Key], node: str | None
) -> None:
    """Say which later patch has taken the place of one of ours at `keys`, or hides it.

    name: of our node, in the message. node: that shows it, see `messages.warn`.
    """
    replacements = standing(model_options, attention)
    lost = [key for key in keys if key in replacements and not isinstance(replacements[key], ours)]
    lost += [key for key in replacements if key not in keys and key[:2] in keys]
    places = {}
    for key in lost:
        places.setdefault(name_of(replacements[key]), []).append(" ".join(map(str, key)))
    for other, where in places.items():
        messages.warn(
            f"{name}: {other} was applied after this node and replaces it at {', '.join(where)}; apply it before this "
            "node to have both.",
            node,
        )


def name_of(patch: Callable) -> str:
    """The name under which users can find another pack's patch."""
    name = getattr(patch, "__qualname__", type(patch).__qualname__)
    return f"{getattr(patch, '__module__', '?')}.{name}"
