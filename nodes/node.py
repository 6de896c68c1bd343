"""What all nodes of the pack share: inputs are checked against the schema, and messages appear on the node.

The host checks the values of widgets, and none that come by a link. Here both are checked, by the limits that the
schema states: a node's `execute` gets numbers within bounds, choices that exist, texts that can be written, and images,
masks and latents in one form without NaN.
"""

import functools
from collections.abc import Callable

from comfy_api.latest import Input, io

from ..core import inputs
from ..core.text import encodable
from ..host import messages
from ..host.choices import refuse_hint


class StoryReelNode(io.ComfyNode):
    """The base of every node. Subclasses declare and execute as any node of the host does."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        execute = cls.__dict__.get("execute")
        if isinstance(execute, classmethod) and not hasattr(execute.__func__, "__wrapped__"):
            cls.execute = classmethod(_checked(execute.__func__))


class InnerNode(StoryReelNode):
    """A node inside an expansion of ours. Anywhere else it refuses to run: a shared graph could give it any value.

    outer: the ids of the nodes that expand into it. Its schema needs `HIDDEN`.
    """

    HIDDEN = [io.Hidden.unique_id, io.Hidden.dynprompt]
    outer: tuple[str, ...] = ()

    @classmethod
    def outer_node(cls) -> str:
        """The id of the node that expanded into this one. Raises ValueError where none of ours did."""
        prompt = getattr(cls.hidden, "dynprompt", None)
        parent = None if prompt is None else prompt.get_parent_node_id(cls.hidden.unique_id)
        if parent is None or prompt.get_node(parent)["class_type"] not in cls.outer:
            raise ValueError(f"{cls.FINALIZE_SCHEMA().node_id} works only inside {' and '.join(cls.outer)}.")
        return parent


def _checked(execute: Callable) -> Callable:
    @functools.wraps(execute)
    def wrapped(cls, **values) -> io.NodeOutput:
        schema = cls.FINALIZE_SCHEMA()
        if issubclass(cls, InnerNode):
            cls.outer_node()
        try:
            values = _read(schema.inputs, values, schema.is_input_list)
        except ValueError as error:
            raise ValueError(f"{schema.node_id}: {error}") from error
        with messages.collecting() as said:
            result = _encodable_errors(execute, cls, values)
        return _with_text(result, said)

    return wrapped


def _encodable_errors(execute: Callable, cls, values: dict) -> io.NodeOutput:
    """An error whose text no connection can carry would end the host's worker."""
    try:
        return execute(cls, **values)
    except Exception as error:
        text = str(error)
        if encodable(text) == text:
            raise
        raise ValueError(encodable(text)) from None


def _read(declared: list[io.Input], values: dict, lists: bool = False) -> dict:
    """The values of declared inputs, read; others as they are. lists: every value is a list of such values."""
    values = dict(values)
    for entry in declared:
        value = values.get(entry.id)
        if value is None:
            continue
        if lists:
            values[entry.id] = [
                _read_one(entry, item, entry.id if len(value) == 1 else f"{entry.id} {number}")
                for number, item in enumerate(value, 1)
            ]
        else:
            values[entry.id] = _read_one(entry, value, entry.id)
    return values


def _read_one(entry: io.Input, value, name: str):
    if isinstance(entry, io.DynamicCombo.Input):
        options = {option.key: option.inputs for option in entry.options}
        value = value if isinstance(value, dict) else {entry.id: value}
        return _read(options[inputs.read_choice(name, value.get(entry.id), list(options))], value)
    if isinstance(entry, io.MultiType.Input):
        if isinstance(value, Input.Video) and io.Video in entry.io_types:
            return value
        return inputs.read_images(name, value) if io.Image in entry.io_types else value
    if isinstance(entry, io.Combo.Input):
        refuse_hint(name, value)
        return inputs.read_choice(name, value, entry.options)
    if isinstance(entry, io.Int.Input | io.Float.Input):
        return inputs.read_number(name, value, isinstance(entry, io.Int.Input), entry.min, entry.max)
    read = READERS.get(type(entry))
    return value if read is None else read(name, value)


def _read_video(name: str, value) -> Input.Video:
    if not isinstance(value, Input.Video):
        raise ValueError(f"{name} is {inputs.shown(value)}; a VIDEO is expected.")
    return value


READERS = {
    io.Boolean.Input: inputs.read_switch,
    io.String.Input: inputs.read_text,
    io.Image.Input: inputs.read_images,
    io.Mask.Input: inputs.read_masks,
    io.Latent.Input: inputs.read_latent,
    io.Conditioning.Input: inputs.read_conditioning,
    io.Sigmas.Input: inputs.read_sigmas,
    io.Video.Input: _read_video,
}


def _with_text(result: io.NodeOutput, said: list[str]) -> io.NodeOutput:
    """The node's output, which also shows what was said while it was made."""
    if said:
        shown = result.ui if isinstance(result.ui, dict) or result.ui is None else result.ui.as_dict()
        result.ui = {**(shown or {}), "text": [*(shown or {}).get("text", ()), *said]}
    return result
