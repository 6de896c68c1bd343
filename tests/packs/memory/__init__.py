"""A pack that gives freed memory back to the system: glibc keeps it, which adds up over the tests of one server.

The host empties its caches when it frees models.
"""

import ctypes
import sys

import comfy.model_management

empty_cache = comfy.model_management.soft_empty_cache


def empty_cache_and_trim(*arguments, **named):
    empty_cache(*arguments, **named)
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


comfy.model_management.soft_empty_cache = empty_cache_and_trim
NODE_CLASS_MAPPINGS = {}
