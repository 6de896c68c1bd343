"""Files that results of nodes stand for, as long as the host keeps these results.

A VIDEO of ours is a file. The host keeps the VIDEO and takes its node for done, also after the file is gone. A node
asks here in its `fingerprint_inputs`: the answer changes when one of its files is missing, and the host runs it again.
"""

import os
from io import BytesIO

from .messages import current_node


class KeptFiles:
    """The files of each node, by the node's id in the graph, for as long as the process and the host's results live."""

    def __init__(self):
        self._paths: dict[str | None, set[str]] = {}
        self._generations: dict[str | None, int] = {}

    def add(self, *sources: str | os.PathLike[str] | BytesIO) -> None:
        """Files of the node that runs now; outside of the host there is none, and nothing is kept.

        sources: paths. What is in memory is no file.
        """
        if (node := current_node()) is not None:
            self._paths.setdefault(node, set()).update(
                os.fspath(path) for path in sources if not isinstance(path, BytesIO)
            )

    def generation(self) -> int:
        """A number that is another one after a file of the node that is asked now has gone."""
        node = current_node()
        generation = self._generations.setdefault(node, 0)
        if any(not os.path.exists(path) for path in self._paths.get(node, ())):
            self._paths.pop(node)
            self._generations[node] = generation = generation + 1
        return generation


kept_files = KeptFiles()
