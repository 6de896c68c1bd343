"""The host's graph: its expansion, for nodes that expand into others, and what a node's output leads to."""

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, cast

import execution
import nodes
from comfy_execution.graph import DynamicPrompt
from comfy_execution.graph_utils import GraphBuilder, is_link
from comfy_execution.progress import get_progress_state

__all__ = [
    "GraphBuilder",
    "current_prompt",
    "depends_on",
    "find_changes",
    "new_expansion",
    "samplers_of",
    "upstream_of",
]

PASSES_ON = {"MODEL", "GUIDER"}  # types of outputs that hold a model which is yet to be sampled


def new_expansion() -> str:
    """A name that no other expansion has. The host caches the outputs of inner nodes by their inputs, so an inner node
    that must run again takes this name as one of its inputs."""
    return uuid.uuid4().hex


def current_prompt() -> DynamicPrompt:
    """The graph that runs, also while the host asks its nodes whether they have changed."""
    return get_progress_state().dynprompt


def first_of_kind(prompt: DynamicPrompt, node: str) -> str:
    """The node that expanded into this one of its own kind, if one did: its inputs are links, and not yet values."""
    kind, parent = prompt.get_node(node)["class_type"], prompt.get_parent_node_id(node)
    while parent is not None and prompt.get_node(parent)["class_type"] == kind:
        node, parent = parent, prompt.get_parent_node_id(parent)
    return node


def samplers_of(prompt: DynamicPrompt, node: str, slot: int = 0) -> list[str]:
    """The nodes that use the MODEL in a node's output for something other than a MODEL: samplers, as a rule.

    slot: number of the output. The MODEL is followed through nodes that patch it, and through guiders.
    """
    consumers: dict[tuple[str, int], list[str]] = {}
    for other in sorted(prompt.all_node_ids()):
        for id, output in _links(prompt, other):
            consumers.setdefault((id, output), []).append(other)
    found, pending, visited = [], [(node, slot)], set()
    while pending:
        output = pending.pop()
        if output in visited:
            continue
        visited.add(output)
        for consumer in consumers.get(output, ()):
            types = _output_types(prompt.get_node(consumer)["class_type"])
            pending += [(consumer, number) for number, type in enumerate(types) if type in PASSES_ON]
            if not types or any(type not in PASSES_ON for type in types):
                found.append(consumer)
    return sorted(set(found))


def upstream_of(prompt: DynamicPrompt, ids: Iterable[str]) -> set[str]:
    """These nodes and all that they need, directly or through nodes between them."""
    pending, found = list(ids), set()
    while pending:
        id = pending.pop()
        if id not in found and prompt.has_node(id):
            found.add(id)
            pending += [source for source, _ in _links(prompt, id)]
    return found


def depends_on(prompt: DynamicPrompt, node: str, other: str) -> bool:
    """Whether a node is another one or needs its outputs."""
    return other in upstream_of(prompt, [node])


async def find_changes(prompt: DynamicPrompt, ids: Iterable[str]) -> bool:
    """Let the host ask these nodes whether they have changed, for `node_keys`; whether one of them always has."""
    cache = execution.IsChangedCache(get_progress_state().prompt_id, prompt, cast(Any, None))
    always = False
    for id in sorted(ids):
        changed = await cache.get(id)
        always |= any(value != value for value in (changed if isinstance(changed, list) else [changed]))  # NaN
    return always


def _links(prompt: DynamicPrompt, node: str) -> Iterator[tuple[str, int]]:
    for value in prompt.get_node(node)["inputs"].values():
        if is_link(value):
            yield value[0], int(value[1])


def _output_types(class_type: str) -> list[str]:
    # pyright finds the pack's folder of that name instead of the host's module
    classes = nodes.NODE_CLASS_MAPPINGS  # pyright: ignore[reportAttributeAccessIssue]
    return list(getattr(classes.get(class_type), "RETURN_TYPES", ()))
