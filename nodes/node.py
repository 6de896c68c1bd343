"""What all nodes of the pack share: inputs are checked against the schema, and messages appear on the node.

The host checks the values of widgets, and none that come by a link. Here both are checked, by the limits that the
schema states: a node's `execute` gets numbers within bounds, choices that exist, texts that can be written, and images,
masks and latents in one form without NaN.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from comfy_api.latest import Input, InputImpl, Types, io

from ..core import inputs
from ..core.text import encodable, short
from ..host.common import messages
from ..host.common.choices import refuse_hint


class StoryReelNode(io.ComfyNode):
    """The base of every node. Subclasses declare and execute as any node of the host does."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        execute = cls.__dict__.get("execute")
        if isinstance(execute, classmethod) and not hasattr(execute.__func__, "__wrapped__"):
            cast(Any, cls).execute = classmethod(_checked(execute.__func__))

    @classmethod
    def expand_first(cls, values: dict) -> io.NodeOutput | None:
        """A graph that runs in place of `execute`, for inputs that are not ready; None if they are."""
        return None


def check_option(node: type[StoryReelNode], name: str, value) -> bool | str:
    """For `validate_inputs`: whether a DynamicCombo has the option, which the host does not check.

    A known one arrives as {name: option, ...}. Of any other nothing arrives, or where a node accepts all inputs, the
    value.
    """
    (entry,) = (entry for entry in node.FINALIZE_SCHEMA().inputs if entry.id == name)
    if isinstance(value, dict) or (value is None and entry.optional):
        return True
    options = ", ".join(option.key for option in cast(io.DynamicCombo.Input, entry).options)
    if value is None:  # an answer would be for the inputs that arrive, and none does
        raise ValueError(f"{name} is missing or unknown; one of {options} is expected.")
    return f"{name} is {short(value)}; one of {options} is expected."


class InnerNode(StoryReelNode):
    """A node inside an expansion of ours. Anywhere else it refuses to run: a shared graph could give it any value.

    outer: the ids of the nodes that expand into it. Its schema needs `HIDDEN`.
    """

    HIDDEN = [io.Hidden.unique_id, io.Hidden.dynprompt]
    outer: tuple[str, ...] = ()

    @staticmethod
    def expansion_of(title: str) -> io.String.Input:
        """The input `expansion` of a node inside the node of that title, see `graph.new_expansion`."""
        return io.String.Input("expansion", tooltip=f"The expansion of {title} that the node belongs to.")

    @classmethod
    def outer_node(cls) -> str:
        """The id of the node that expanded into this one. Raises ValueError where none of ours did."""
        prompt = getattr(cls.hidden, "dynprompt", None)
        if prompt is not None:
            parent = prompt.get_parent_node_id(cls.hidden.unique_id)
            if parent is not None and prompt.get_node(parent)["class_type"] in cls.outer:
                return parent
        raise ValueError(f"{cls.FINALIZE_SCHEMA().node_id} works only inside {' and '.join(cls.outer)}.")


class PreflightNode(StoryReelNode):
    """A node that takes the result of long work, for instance of a sampler, by a lazy input.

    The host computes a lazy input only when the node asks for it. All other inputs are checked before, so a mistake in
    them costs no sampling.
    """

    @classmethod
    def preflight(cls, **values) -> None:
        """Raise ValueError for inputs, without the lazy ones, that `execute` would refuse."""

    @classmethod
    def check_lazy_status(cls, **values) -> list[str]:
        schema = cls.FINALIZE_SCHEMA()
        lazy = {entry.id for entry in schema.inputs if entry.lazy}
        missing = [name for name in lazy if name in values and values[name] is None]
        if missing:
            others = {name: _value_alone(value) for name, value in values.items() if name not in lazy}
            with _fit_errors(title_of(schema)):
                cls.preflight(**read_values(schema.inputs, others))
        return missing


def flat_inputs(declared: list[io.Input], values: dict) -> dict:
    """The values that `execute` gets, named as in a graph: those of a dynamic input after its name and a dot."""
    dynamic, flat = {entry.id for entry in declared if isinstance(entry, io.DynamicCombo.Input | io.Autogrow.Input)}, {}
    for name, value in values.items():
        if name in dynamic and isinstance(value, dict):
            flat |= {key if key == name else f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _value_alone(value):
    """Where the host checks for lazy inputs, it gives those of a dynamic choice as (value, name)."""
    if isinstance(value, tuple):
        return value[0]
    return {name: _value_alone(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _checked(execute: Callable) -> Callable:
    names = list(inspect.signature(execute).parameters)[1:]

    @functools.wraps(execute)
    def wrapped(cls, *args, **values) -> io.NodeOutput:
        schema, values = cls.FINALIZE_SCHEMA(), {**dict(zip(names, args, strict=False)), **values}
        if issubclass(cls, InnerNode):
            cls.outer_node()
        title = title_of(schema)
        with messages.collecting(title) as warnings:
            with _fit_errors(title):
                if (result := cls.expand_first(values)) is not None:
                    return result
                result = execute(cls, **read_values(schema.inputs, values, schema.is_input_list))
        return _with_warnings(result, warnings)

    return wrapped


def title_of(schema: io.Schema) -> str:
    """The node's name in sentences, as users see it in the search box."""
    return schema.display_name.removesuffix(" (StoryReel)")


@contextmanager
def _fit_errors(node: str) -> Iterator[None]:
    """Raise errors whose text can be sent: one that cannot would end the host's worker. A ValueError begins with the
    title of the node, which is `node`."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if isinstance(error, ValueError):
            raise ValueError(encodable(f"{node}: {text}")) from error
        if encodable(text) != text:
            raise ValueError(encodable(text)) from None
        raise


def read_values(declared: list[io.Input], values: dict, lists: bool = False) -> dict:
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
        return read_values(options[inputs.read_choice(name, value.get(entry.id), list(options))], value)
    if isinstance(entry, io.MultiType.Input):
        if isinstance(value, Input.Video) and io.Video in entry.io_types:
            return _read_video(name, value)
        return inputs.read_images(name, value) if io.Image in entry.io_types else value
    if isinstance(entry, io.Combo.Input):
        refuse_hint(name, value)
        return inputs.read_choice(name, value, entry.options)
    if isinstance(entry, io.Int.Input | io.Float.Input):
        return inputs.read_number(name, value, isinstance(entry, io.Int.Input), entry.min, entry.max)
    read = READERS.get(type(entry))
    return value if read is None else read(name, value)


def _read_text(name: str, value) -> str:
    text = inputs.read_text(name, value)
    if text != value:
        messages.warn(f"{name} contains half of an emoji, probably cut off by a program. It was replaced.")
    return text


def _read_video(name: str, value) -> Input.Video:
    """A VIDEO; one that is in memory has images in the form of `read_images`."""
    if not isinstance(value, Input.Video):
        raise ValueError(f"{name} is {inputs.shown(value)}; a VIDEO is expected.")
    if not isinstance(value, InputImpl.VideoFromComponents):
        return value
    parts = value.get_components()
    images = inputs.read_images(name, parts.images)
    if images is parts.images:
        return value
    parts = Types.VideoComponents(images=images, audio=parts.audio, frame_rate=parts.frame_rate)
    return InputImpl.VideoFromComponents(parts)


READERS = {
    io.Boolean.Input: inputs.read_switch,
    io.String.Input: _read_text,
    io.Image.Input: inputs.read_images,
    io.Mask.Input: inputs.read_masks,
    io.Latent.Input: inputs.read_latent,
    io.Conditioning.Input: inputs.read_conditioning,
    io.Sigmas.Input: inputs.read_sigmas,
    io.Video.Input: _read_video,
}


def _with_warnings(result: io.NodeOutput, warnings: list[str]) -> io.NodeOutput:
    """The node's output, which also shows the messages of the run."""
    if warnings:
        shown = result.ui if isinstance(result.ui, dict) or result.ui is None else result.ui.as_dict()
        result.ui = {**(shown or {}), "text": [*(shown or {}).get("text", ()), *warnings]}
    return result
