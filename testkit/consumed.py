"""Records of a cluster topic as kafka-python gives them to a subscriber."""

from __future__ import annotations

import time

from kafka.consumer.fetcher import ConsumerRecord

from emostream.records import Count, encode, record_key


def consumed(
    count: Count, partition: int = 0, offset: int = 0, timestamp_ms: int | None = None, **changes: object
) -> ConsumerRecord:
    """The record of a count, published at `timestamp_ms` (now). `changes` are fields of ConsumerRecord."""
    known: dict[str, object] = {
        "topic": "cluster1-emoji-topic", "partition": partition, "offset": offset,
        "timestamp": round(time.time() * 1000) if timestamp_ms is None else timestamp_ms,
        "key": record_key(count.emoji, count.room), "value": encode(count),
    } | changes  # fmt: skip
    return ConsumerRecord(*(known.get(name) for name in ConsumerRecord._fields))
