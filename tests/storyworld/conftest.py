"""Fixtures of the tests of the included demo model."""

import pytest
from harness.tools import experiments


@pytest.fixture(scope="module")
def lab(host):
    """The modules that train and evaluate, in this process, whose host has begun already."""
    with experiments() as modules:
        yield modules
