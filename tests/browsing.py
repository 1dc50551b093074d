"""A real browser for the tests of pages: $MAGDI_CHROMIUM, or one on the path.

Without one those tests are skipped, or fail where $MAGDI_REQUIRE_BROWSER is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def lacking(what: str) -> NoReturn:
    """Skip, or fail, for want of something."""
    reason = f"{what}; pages are tested in a browser only where there is one"
    if os.environ.get("MAGDI_REQUIRE_BROWSER"):
        pytest.fail(f"MAGDI_REQUIRE_BROWSER is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a file."""
    program = os.environ.get("MAGDI_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        lacking(f"none of {', '.join(NAMES)} is on the path and MAGDI_CHROMIUM is not set")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright is not installed (pip install playwright axe-playwright-python)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()
