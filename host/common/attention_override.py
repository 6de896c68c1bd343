"""Overrides of the host's attention function, which packs chain: each calls the one before it."""

from collections.abc import Callable
from functools import partial

OVERRIDE = "optimized_attention_override"  # in transformer_options
ARGUMENTS = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")  # of the host's functions, after heads


def chained(attention: Callable, previous: Callable | None) -> Callable:
    """The host's attention function with an override before it, if there is one."""
    return attention if previous is None else partial(previous, attention)


def by_name(args: tuple, kwargs: dict) -> dict:
    """The arguments of a call after heads, all by name."""
    return kwargs | dict(zip(ARGUMENTS, args, strict=False))
