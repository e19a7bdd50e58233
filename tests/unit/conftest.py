"""What holds for every unit test: no .env of the developer, a zone that is not UTC, no deadline for a busy machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from emostream import settings

hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")


@pytest.fixture(scope="package", autouse=True)
def _somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "LOCAL_FILE", tmp_path_factory.mktemp("project") / ".env")
        # Where local time is UTC, one that was taken for the other would not be noticed.
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .env for one test."""
    monkeypatch.setattr(settings, "LOCAL_FILE", tmp_path / ".env")
    return tmp_path / ".env"
