"""What a drop-down of model files offers: the user's own files first, those of the included demo model last.

The first entry is the default. Where a user has no file of his own, it is a sentence that says where to put one, so the
demo model is never chosen by itself.
"""

from collections.abc import Iterable

NOTHING = "no file yet: put one into "  # begins no name of a file, for it ends in no suffix of one


def own_first(own: Iterable[str], shipped: Iterable[str]) -> list[str]:
    """Names of files, each once and sorted, the shipped ones last. A user's file of a shipped one's name is his own."""
    own = sorted(set(own))
    return own + sorted(set(shipped) - set(own))


def to_choose(own: Iterable[str], shipped: Iterable[str], *folders: str) -> list[str]:
    """`own_first` for a choice that must be made: where the user has no file, the hint comes first.

    folders: of models/, where to put one.
    """
    own = list(own)
    hint = [] if own else [NOTHING + " or ".join(f"models/{folder}" for folder in folders)]
    return hint + own_first(own, shipped)


def refuse_hint(name: str, value: object) -> None:
    """Raise ValueError where the hint itself was chosen. name: of the input."""
    if isinstance(value, str) and value.startswith(NOTHING):
        place = value.removeprefix(NOTHING)
        raise ValueError(f"{name} names no file; put one into {place}, press R in the graph and choose it.")
