"""The example graphs that make_workflows.py writes, in the order in which people meet them."""

from . import chain, films, long, motion, pictures, shots

GRAPHS = (*pictures.GRAPHS, *shots.GRAPHS, *films.GRAPHS, *motion.GRAPHS, *long.GRAPHS, *chain.GRAPHS)
