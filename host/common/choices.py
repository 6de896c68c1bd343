"""The entries of a drop-down of model files: the user's own files first, the included ones last.

The first entry is the default. If the user has no file, it is a hint that names the folder for one, so an included file
is never chosen by default.
"""

from collections.abc import Iterable

NOTHING = "no file yet: put one into "  # no file has such a name, for it has no suffix


def own_first(own: Iterable[str], included: Iterable[str]) -> list[str]:
    """File names, sorted and without repetition, the included ones last. A user's file hides an included namesake."""
    own = sorted(set(own))
    return own + sorted(set(included) - set(own))


def to_choose(own: Iterable[str], included: Iterable[str], *folders: str) -> list[str]:
    """`own_first` for an input that needs a file: if the user has none, the hint comes first.

    folders: in models/, for a file of this kind.
    """
    own = list(own)
    hint = [] if own else [NOTHING + " or ".join(f"models/{folder}" for folder in folders)]
    return hint + own_first(own, included)


def refuse_hint(name: str, value: object) -> None:
    """Raise ValueError where the hint itself was chosen. name: of the input."""
    if isinstance(value, str) and value.startswith(NOTHING):
        place = value.removeprefix(NOTHING)
        raise ValueError(f"{name} names no file. Put one into {place}, press R in the graph and choose it.")
