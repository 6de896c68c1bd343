"""The host's graph expansion, for nodes that expand into others."""

import uuid

from comfy_execution.graph_utils import GraphBuilder

__all__ = ["GraphBuilder", "new_expansion"]


def new_expansion() -> str:
    """A name that no other expansion has. The host caches the outputs of inner nodes by their inputs, so an inner node
    that must run again takes this name as one of its inputs."""
    return uuid.uuid4().hex
