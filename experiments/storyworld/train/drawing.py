"""What is drawn by all processors, in its order."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

Draw = Callable[..., tuple[np.ndarray, ...]]


def in_order(draw: Draw, recipe, starts: Sequence[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """draw(recipe, start) for each start, in other processes; no more of it waits than these need to stay busy."""
    if len(starts) <= 1:  # is drawn before a process has begun
        yield from (draw(recipe, start) for start in starts)
        return
    waiting = deque()
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for start in starts:
            waiting.append(pool.submit(draw, recipe, start))
            if len(waiting) > 2 * os.cpu_count():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
