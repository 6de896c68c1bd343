"""Fixtures of the tests of attention in the real host."""

import functools

import pytest
from harness import tiny, transformers


@pytest.fixture(scope="module")
def probe(host):
    from harness import probe

    return probe


@pytest.fixture(scope="module")
def narrow(host):
    return tiny.narrow_sd15()


@pytest.fixture
def model(narrow):
    return narrow.clone()


@pytest.fixture(scope="module")
def models(host):
    """Clones of the tiny models of `harness.transformers` by name."""
    built = functools.cache(transformers.build)
    return lambda name: built(name).clone()


@pytest.fixture
def shared(host, probe):
    """A model behind our node, in all blocks."""

    def shared(model, preset="custom", **options):
        return probe.node(host, model, preset, **{"blocks": "all"} | options)

    return shared
