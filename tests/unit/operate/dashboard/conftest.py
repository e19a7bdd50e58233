"""A topic whose counts a test decides, in place of a broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emostream.operate.dashboard import timeline
from emostream.operate.dashboard.counts_reader import CountRow, TopicUnreadable
from emostream.settings import Settings

NOW_MS = 1_785_000_000_000
ROWS = [
    CountRow(NOW_MS - 2000, 8, "😊", 1, 1),
    CountRow(NOW_MS - 4000, 7, "🔥", 2, 1500),
    CountRow(NOW_MS - 4000, 7, "👏", 1, 3),
    CountRow(NOW_MS - 4000, None, "=HYPERLINK(\"http://x\",1)", 1, None),
    CountRow(NOW_MS - 4000, 7, "🔥", 5, 4500, "final"),
    CountRow(NOW_MS - 40 * 60_000, 1, "🦕", 1, 1),
]  # fmt: skip


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """ROWS are on the topic."""

    def read_counts(_settings: Settings, _since_ms: int, _offsets: dict[int, int], _timeout: float) -> list[CountRow]:
        return ROWS

    monkeypatch.setattr(timeline, "read_counts", read_counts)


def unreadable(*_: object) -> Iterator[CountRow]:
    """read_counts() without a broker."""
    raise TopicUnreadable("main-pub-topic cannot be read from localhost:9092 (no connection)")
    yield
