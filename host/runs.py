"""Names for long work, so that what lies on disk is found again by the work it belongs to and by no other."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context

PLAYERS = ("video-preview", "audioUI")  # the frontend's own: inputs of a node once its file is loaded, and not before
KEY = re.compile(r"[0-9a-f]{24}")
PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def run_key(prompt, node: str, leave_out: Collection[str] = ()) -> str:
    """A name for what a node will compute: of its inputs, all that stands before it, the files that these name, the
    pack's version, and, where the host calls a node once for each entry of a list, the number of the call. What a node
    says of itself to the host (`fingerprint_inputs`, `IS_CHANGED`) counts, too: a file of styles, a folder of clips.

    prompt: the host's DynamicPrompt. leave_out: inputs of the node that do not count. Node ids do not count either, so
    a graph that was saved, shared or laid out anew keeps its key. A file counts with its size and its time of change.
    """
    context = get_executing_context()
    call = context.list_index if context is not None else None
    return name_of([_graph(prompt, node, leave_out), call or 0, _version()])


def upstream_key(prompt, node: str, name: str) -> str:
    """A name for what a node's input `name` is linked to, as `run_key` names a node."""
    value = prompt.get_node(node)["inputs"].get(name)
    return name_of([_graph(prompt, value[0]), value[1]]) if is_link(value) else name_of([value])


def _graph(prompt, node: str, leave_out: Collection[str] = ()) -> str:
    known: dict[str, str] = {}

    def digest(id: str, leave_out: Collection[str] = ()) -> str:
        if id not in known:
            told = prompt.get_node(id)
            uncounted = {*leave_out, *PLAYERS}
            inputs = {name: value_of(value) for name, value in sorted(told["inputs"].items()) if name not in uncounted}
            # What a node of the host declares to depend on beyond its inputs; one that says it always does, says NaN.
            known[id] = name_of([told["class_type"], inputs, told.get("is_changed")])
        return known[id]

    def value_of(value):
        return [digest(value[0]), value[1]] if is_link(value) else [value, _stamps(value)]

    return digest(node, leave_out)


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
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
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
            self.digest.update(np.ascontiguousarray(frame))

    def __str__(self) -> str:
        return self.digest.hexdigest()[:24]


def run_folder(kind: str, run: str) -> Path:
    """Where a run's files lie, in the host's output folder. Raises ValueError for a run that is no key."""
    if not KEY.fullmatch(run):
        raise ValueError(f"{run!r} is no key of a run.")
    return Path(folder_paths.get_output_directory()) / "story" / kind / run


def _stamps(value) -> list:
    """(size, time of change) of every file that a widget's value may name: the host's, or one by its whole path."""
    if not isinstance(value, str) or not value or "\n" in value:
        return []
    stats = [os.stat(path) for path in sorted(filter(None, _named(value))) if os.path.isfile(path)]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _named(value: str) -> set[str | None]:
    # The host's functions raise ValueError on Windows for what looks like another drive: a path, or a text "Q: what?"
    found = {value} if os.path.isabs(value) else set()
    for kind in folder_paths.folder_names_and_paths:
        with contextlib.suppress(ValueError):
            found.add(folder_paths.get_full_path(kind, value))
    with contextlib.suppress(ValueError):
        if folder_paths.exists_annotated_filepath(value):
            found.add(folder_paths.get_annotated_filepath(value))
    return found


def _version() -> str:
    """Of the pack."""
    return re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)[1]
