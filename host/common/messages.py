"""What a node has to say to its user: in the server's log, and on the node itself in the graph.

While a node runs, its messages are collected and become part of what it shows. A patch speaks later, while another node
samples: then the page is told by an event, which `js/messages.js` shows on the node that made the patch.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...core.text import encodable

EVENT = "storyreel.message"  # {"node": id, "prompt_id": of the run, "text": one message}

_collected: ContextVar[list[str] | None] = ContextVar("storyreel_messages", default=None)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """The messages of the node that runs inside the block, each once, in their order."""
    messages: list[str] = []
    token = _collected.set(messages)
    try:
        yield messages
    finally:
        _collected.reset(token)


def current_node() -> str | None:
    """The id of the node that runs now, as the graph shows it: of an expansion's inner node, the outer one's."""
    context = get_executing_context()
    return None if context is None else _shown(context.node_id)


def show_progress(text: str, node: str) -> None:
    """Show a line on a node while it works, in place of the one before. node: its id, or that of an inner node."""
    PromptServer.instance.send_progress_text(encodable(text), _shown(node))


def _shown(node: str) -> str:
    """An expansion adds to the id of its node what stands behind the first dot."""
    return str(node).partition(".")[0]


def warn(text: str, node: str | None = None) -> None:
    """Log a message, and show it on the node that runs now if that is one of ours, else on `node`.

    node: from `current_node`, asked while the node ran that this message is about.
    """
    text = encodable(text)
    logging.warning("[StoryReel] %s", text)
    messages = _collected.get()
    if messages is not None:
        if text not in messages:
            messages.append(text)
    elif node is not None:
        context = get_executing_context()
        data = {"node": node, "prompt_id": context and context.prompt_id, "text": text}
        PromptServer.instance.send_sync(EVENT, data, PromptServer.instance.client_id)
