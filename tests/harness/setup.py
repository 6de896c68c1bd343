"""Requirements of tests on the machine: an environment that is set up, and chromium."""

import contextlib
import os
from collections.abc import Iterator

import environment
import pytest
from hosting.browser import Browser, NoChromium


def require_setup():
    """For tests that start the tools, which would otherwise set up the environment while the tests use it."""
    assert environment._is_ready(environment.environment_folder()), "set up first: python tools/test.py --setup"


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    try:
        browser = Browser().__enter__()
    except NoChromium as error:
        if os.environ.get("STORYREEL_SKIP_BROWSER"):
            pytest.skip(str(error))
        pytest.fail(f"{error}, or set STORYREEL_SKIP_BROWSER=1 to skip the browser's tests")
    with contextlib.closing(browser):
        yield browser
