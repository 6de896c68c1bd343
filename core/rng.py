"""Random generators that are a pure function of their key, never the global one."""

import hashlib

import torch


def generator(*key: int | float | str) -> torch.Generator:
    """A CPU generator for one draw, seeded by the words and numbers of `key`. 1 and 1.0 are two keys."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
