"""Names for long work, so that what lies on disk is found again by the work it belongs to and by no other."""

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import folder_paths
import nodes
import numpy as np
import torch
from comfy_execution.graph_utils import is_link

from ...core.inputs import shown
from . import included
from .folders import inside

PLAYERS = ("video-preview", "audioUI")  # the frontend's own: inputs of a node once its file is loaded, and not before
KEY = re.compile(r"[0-9a-f]{24}")
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def run_key(prompt, node: str, values: Mapping[str, object]) -> str:
    """A name for what a node will compute from these values of its inputs: of what they hold and the pack's version.

    A number, a text and a tensor count by what they hold, wherever they come from: images, masks, prompts, sigmas. What
    cannot be looked into, a MODEL for instance, counts by the graph that makes it, see `upstream_keys`.

    prompt: the host's DynamicPrompt. Node ids and titles do not count, so a graph that was saved, shared or laid out
    differently keeps its key. Where the host calls a node once for each entry of a list, every call has its own values.
    """
    upstream = upstream_keys(prompt, node, values)
    held = [
        [name, content_name(value, upstream[name]), [_stamps(text) for text in _texts(value)]]
        for name, value in sorted(values.items())
    ]
    return name_of([held, _version()])


def _texts(value) -> Iterator[str]:
    """The texts in a value, any of which may name a file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _texts(value[key])


def upstream_keys(prompt, node: str, names: Iterable[str]) -> dict[str, str]:
    """{name: a key of what a node's input of that name is linked to}: of the nodes before it, their inputs and the
    files that these name. A file counts with its size and its time of change.

    The host's cache key of a node counts, too, if it has one (`fingerprint_inputs`, `IS_CHANGED`): a folder of clips,
    say. A node of ours may read less than its inputs hold: then the result of its `inputs_that_count` replaces them.
    """
    inputs, graph_key = prompt.get_node(node)["inputs"], _graph_keys(prompt)

    def key_of(name: str) -> str:
        found = {key: value for key, value in inputs.items() if key == name or key.startswith(f"{name}.")}
        return name_of([[key, graph_key(value)] for key, value in sorted(found.items())])

    return {name: key_of(name) for name in names}


def node_keys(prompt, ids: Iterable[str]) -> list[str]:
    """Keys of these nodes: of all that they compute, see `upstream_keys`."""
    graph_key = _graph_keys(prompt)
    return [name_of(graph_key([id, 0])) for id in ids]


def _graph_keys(prompt) -> Callable[[object], list]:
    """A function from the value of an input, a link or a widget's value, to what JSON can hold and stands for it. It
    visits each node of the graph once."""

    @functools.cache
    def node_key(id: str) -> str:
        node = prompt.get_node(id)
        inputs = {name: value for name, value in node["inputs"].items() if name not in PLAYERS}
        # pyright finds the pack's folder of that name instead of the host's module
        classes = nodes.NODE_CLASS_MAPPINGS  # pyright: ignore[reportAttributeAccessIssue]
        read = getattr(classes.get(node["class_type"]), "inputs_that_count", None)
        if read is not None and not any(map(is_link, inputs.values())):
            inputs = read(**inputs)
        inputs = {name: value_key(value) for name, value in sorted(inputs.items())}
        # The host's `is_changed` is NaN for a node that must always run.
        return name_of([node["class_type"], inputs, node.get("is_changed")])

    def value_key(value) -> list:
        return [node_key(value[0]), value[1]] if is_link(value) else [value, _stamps(value)]

    return value_key


def name_of(value) -> str:
    """A short name of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def content_name(value, otherwise: str) -> str:
    """A name for what a value holds: tensors, numbers, texts and whatever contains them.

    otherwise: stands for everything else in it, patches of a conditioning for instance, which cannot be looked into.
    """
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, (str, int, float, bool, type(None))):
            digest.update(f"{type(value).__name__} {value!r}".encode())
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)}".encode())
            for key in sorted(value, key=str):
                add(str(key))
                add(value[key])
        elif isinstance(value, (list, tuple)):
            digest.update(f"list {len(value)}".encode())
            for entry in value:
                add(entry)
        else:
            digest.update(f"{type(value).__name__} {otherwise}".encode())

    add(value)
    return digest.hexdigest()[:24]


class FramesName:
    """A name for frames [H, W, 3], uint8 or float, that pass by one at a time."""

    def __init__(self):
        self.digest = hashlib.sha256()

    def add(self, frames: Iterable[np.ndarray]) -> None:
        for frame in frames:
            self.digest.update(f"{frame.dtype} {frame.shape}".encode())
            self.digest.update(np.ascontiguousarray(frame).data)

    def __str__(self) -> str:
        return self.digest.hexdigest()[:24]


def run_folder(kind: str, run: str) -> Path:
    """Where a run's files lie, in the host's output folder. Raises ValueError for a run that is no key."""
    if not isinstance(run, str) or not KEY.fullmatch(run):
        raise ValueError(f"run is {shown(run)}, which is no key of a run.")
    return inside(folder_paths.get_output_directory(), f"story/{kind}/{run}", "run")


def _stamps(value) -> list:
    """(size, time of change) of every file that a widget's value may name: the host's, or one by its whole path."""
    if not isinstance(value, str) or not value or "\n" in value:
        return []
    stats = [os.stat(path) for path in sorted(filter(None, _named(value))) if os.path.isfile(path)]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _named(value: str) -> set[str | None]:
    # The host's functions raise ValueError on Windows for what looks like another drive: a path, or a text "Q: what?"
    found: set[str | None] = {value} if os.path.isabs(value) else set()
    for kind in folder_paths.folder_names_and_paths:
        with contextlib.suppress(ValueError):
            found |= {folder_paths.get_full_path(kind, value), included.path_of(kind, value)}
    with contextlib.suppress(ValueError):
        if folder_paths.exists_annotated_filepath(value):
            found.add(folder_paths.get_annotated_filepath(value))
    return found


def _version() -> str:
    """Of the pack."""
    return re.findall(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)[0]
