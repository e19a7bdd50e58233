"""The publisher's transactions on a fake producer: what happens when one fails."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaError
from pyspark.sql import Row

from emostream.aggregate import publisher as aggregate
from emostream.aggregate.publisher import BatchPublisher, Positions, partition_of
from emostream.aggregate.query_metrics import QueryMetrics
from emostream.process import Log
from testkit.settings import settings_with

ONE_EVENT = Row(room="", emoji="😊", events=1, capped=0, first_accepted_ms=1, last_accepted_ms=1)


class FakeProducer:
    """A transactional producer that writes to a list. `fate` is what becomes of its transaction."""

    def __init__(self, committed: list[str], fate: str) -> None:
        self.committed = committed
        self.fate = fate
        self.open: list[str] = []
        self._transaction_manager = SimpleNamespace(last_error=None)

    def init_transactions(self) -> None:
        self.open = []

    def begin_transaction(self) -> None:
        self.open = []

    def partitions_for(self, topic: str) -> set[int]:
        return {0, 1, 2}

    def send(self, topic: str, key: bytes, value: bytes, partition: int | None) -> SimpleNamespace:
        self.open.append(key.decode())
        return SimpleNamespace(get=lambda timeout: None)

    def send_offsets_to_transaction(self, offsets: object, group: str) -> None:
        if self.fate == "fails":
            raise KafkaError("no coordinator")
        if self.fate == "hangs":
            threading.Event().wait()

    def commit_transaction(self) -> None:
        self.committed.extend(self.open)
        if self.fate == "commits without an answer":
            threading.Event().wait()

    def close(self, timeout: float) -> None:
        pass


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No broker and no Spark: a micro-batch is its counted rows."""
    monkeypatch.setattr(aggregate, "read_positions", lambda *_: Positions({}, 0))
    monkeypatch.setattr(aggregate, "count_events", lambda records, _: records)
    monkeypatch.setattr(aggregate, "first_rows", lambda records: records)
    monkeypatch.setattr(aggregate, "planned_offsets", lambda *_: {0: 1})
    return monkeypatch


@pytest.mark.parametrize("fate", ["fails", "hangs", "commits without an answer"])
def test_a_failed_transaction_is_tried_again_and_its_batch_is_published_once(
    fate: str, patched: pytest.MonkeyPatch
) -> None:
    committed: list[str] = []
    producers = iter([FakeProducer(committed, fate), FakeProducer(committed, "works")])
    patched.setattr(aggregate, "TRANSACTION_SECONDS", 0.1)
    patched.setattr(aggregate, "transactional_producer", lambda *_: next(producers))
    patched.setattr(aggregate, "read_positions", lambda *_: Positions({}, len(committed)))
    batch: Any = SimpleNamespace(collect=lambda: [ONE_EVENT])
    publisher = BatchPublisher(settings_with(), QueryMetrics(settings_with(), Log("test")), Log("test"))
    publisher.start()
    publisher.publish(batch, 0)
    publisher.publish(batch, 1)
    assert committed == ["😊", "😊"]
    counts = {"batches": 2, "transactions": 2, "events": 2, "counts": 2, "transaction_aborts": 1}
    assert publisher._metrics.snapshot() == counts
    assert [publisher._metrics.histograms[key].count for key in ("batch", "count", "publish")] == [2, 2, 2]


def test_a_transaction_that_fails_twice_ends_the_query(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(aggregate, "transactional_producer", lambda *_: FakeProducer([], "fails"))
    publisher = BatchPublisher(settings_with(), QueryMetrics(settings_with(), Log("test")), Log("test"))
    publisher.start()
    batch: Any = SimpleNamespace(collect=lambda: [ONE_EVENT])
    with pytest.raises(KafkaError, match="no coordinator"):
        publisher.publish(batch, 0)
    assert not publisher.fenced


def test_the_metrics_name_the_ten_largest_rooms(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(aggregate, "transactional_producer", lambda *_: FakeProducer([], "works"))
    rows = [
        Row(room=f"room-{events}", emoji="😊", events=events, capped=0, first_accepted_ms=1, last_accepted_ms=1)
        for events in range(1, 13)
    ]
    batch: Any = SimpleNamespace(collect=lambda: rows)
    numbers = QueryMetrics(settings_with(), Log("test"))
    publisher = BatchPublisher(settings_with(), numbers, Log("test"))
    publisher.start()
    publisher.publish(batch, 0)
    samples = numbers.metrics.samples()
    assert samples["rooms"] == {"": 12}
    assert samples["room_events"] == {f"room-{events}": events for events in range(3, 13)}


def test_a_named_room_has_all_its_counts_in_one_partition_and_the_default_room_goes_by_key() -> None:
    assert partition_of("", 3) is None
    assert {partition_of(f"room-{number}", 3) for number in range(100)} == {0, 1, 2}
    # Always the same one: after a start, a publisher must not move a room.
    assert partition_of("final", 3) == 1
