"""A test node that returns any value over a link of any type, as nodes of many packs do."""

from collections.abc import Iterator
from contextlib import contextmanager


class GiveValue:
    """The value of that name among `values`."""

    values: dict[str, object] = {}
    RETURN_TYPES = ("*",)
    FUNCTION = "give"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {})}}

    def give(self, name):
        return (self.values[name],)


@contextmanager
def given(host, **values) -> Iterator[dict]:
    """Prompt nodes for these values, by their names; a link is [name, 0]."""
    GiveValue.values = values
    with host.node(GiveValue) as kind:
        yield {name: {"class_type": kind, "inputs": {"name": name}} for name in values}
