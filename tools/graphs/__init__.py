"""The example graphs that make_workflows.py writes, in the order in which people meet them."""

from . import films, long, pictures, shots

GRAPHS = (*pictures.GRAPHS, *shots.GRAPHS, *films.GRAPHS, *long.GRAPHS)
