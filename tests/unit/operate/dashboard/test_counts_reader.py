"""emostream.operate.dashboard.counts_reader: a record of the topic → a row."""

from __future__ import annotations

from typing import cast

import pytest
from confluent_kafka import Message

from emostream.operate.dashboard import counts_reader
from emostream.records import encode

NOW_MS = 1_785_000_000_000


class FakeMessage:
    def __init__(self, value: bytes | None, timestamp_ms: int) -> None:
        self._value, self._timestamp_ms = value, timestamp_ms

    def value(self) -> bytes | None:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 1, self._timestamp_ms


@pytest.mark.parametrize(
    ("batched_ms", "expected"),
    [(NOW_MS - 5, NOW_MS - 5), (None, NOW_MS), (NOW_MS * 1000, NOW_MS), (-1, NOW_MS), (10**30, NOW_MS)],
)
def test_the_publishers_time_counts_unless_it_is_far_from_the_brokers(batched_ms: int | None, expected: int) -> None:
    value = encode({"emoji": "😊", "count": 1} | ({} if batched_ms is None else {"batched_ms": batched_ms}))
    row = counts_reader._row(cast(Message, FakeMessage(value, NOW_MS)))
    assert row is not None
    assert row.time_ms == expected


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b'{"emoji": "\\u0000", "count": 1}'])
def test_a_record_that_is_not_a_count_is_skipped(value: bytes | None) -> None:
    assert counts_reader._row(cast(Message, FakeMessage(value, NOW_MS))) is None
