"""Fixtures of the tests of attention in the real host."""

import pytest
from harness import tiny


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
