"""Fixtures of the browser tests: one Chromium for all of them, set back between two, and a small system for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.browser import Browser
from testkit.fake_system import FakeSystem, fake_system


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser; `browser` is the same, as if it were new."""
    with Browser() as found:
        yield found


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.resize(1280, 800)
    chromium.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    chromium.complaints()
    chromium.requested_hosts()
    yield chromium
    chromium.get("about:blank")


@pytest.fixture
def system() -> Iterator[FakeSystem]:
    with fake_system() as found:
        yield found
