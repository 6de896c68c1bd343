"""Messages of nodes: in the server's log, and on the node in the graph.

The messages of a running node are collected and shown with its outputs. A patch sends its messages later, while another
node samples. They reach the page as an event, and `js/messages.js` shows them on the node that set the patch.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...core import plot
from ...core.text import encodable

EVENT = "storyreel.message"  # {"node": id, "prompt_id": of the run, "text": one message}

_collected: ContextVar[tuple[str, list[str]] | None] = ContextVar("storyreel_messages", default=None)


@contextmanager
def collecting(title: str) -> Iterator[list[str]]:
    """The messages of the node that runs inside the block, in order and without repetition. title: its, for the log."""
    messages: list[str] = []
    token = _collected.set((title, messages))
    try:
        yield messages
    finally:
        _collected.reset(token)


def current_node() -> str | None:
    """The id of the running node as the graph shows it: for an inner node of an expansion, the outer one's."""
    context = get_executing_context()
    return None if context is None else _visible_id(context.node_id)


def show_progress(text: str, node: str) -> None:
    """Show a line on a node while it works, in place of the one before. node: its id, or that of an inner node."""
    PromptServer.instance.send_progress_text(encodable(text), _visible_id(node))


def _visible_id(node: str) -> str:
    """The part before the first dot; an expansion adds the rest."""
    return str(node).partition(".")[0]


def warn(text: str, node: str | None = None) -> None:
    """Log a message, and show it on the running node if that is one of ours, else on `node`.

    A text about a node begins with its title only where another node runs: the log states the title of the running one.
    node: the result of `current_node` while the node ran that the message is about.
    """
    text, collected = encodable(text), _collected.get()
    logging.warning("[StoryReel] %s", text if collected is None else f"{collected[0]}: {text}")
    if collected is not None:
        if text not in collected[1]:
            collected[1].append(text)
    elif node is not None:
        context = get_executing_context()
        data = {"node": node, "prompt_id": context and context.prompt_id, "text": text}
        PromptServer.instance.send_sync(EVENT, data, PromptServer.instance.client_id)


def warn_missing_charts() -> None:
    """Warn if matplotlib is not installed, which draws the charts of the running node."""
    if missing := plot.missing():
        warn(missing)
