"""Counts → one sum per emoji: what a slow client or a slow stream gets instead of every single count."""

from __future__ import annotations

from collections.abc import Callable

from emostream.deliver.history import Record


class Sum:
    """The counts of several records, added up. The order of the records makes no difference.

    A key that no record has is None. `events` is None if any record lacks it, because the sum would be wrong.
    """

    __slots__ = (
        "batch_id", "batched_ms", "count", "events", "first_accepted_ms", "last_accepted_ms", "records", "room",
        "routed_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.records = 0
        self.count = 0
        self.events: int | None = 0
        self.batch_id: int | None = None  # the newest
        self.first_accepted_ms: int | None = None
        self.last_accepted_ms: int | None = None
        self.batched_ms: int | None = None
        self.routed_ms = 0  # when the newest record was published
        self.room = ""  # of all records

    def add(self, record: Record) -> None:
        """Add one record."""
        count = record.count
        self.records += 1
        self.room = count.room
        self.count += count.count
        self.events = None if self.events is None or count.events is None else self.events + count.events
        self.batch_id = _choose(max, self.batch_id, count.batch_id)
        self.first_accepted_ms = _choose(min, self.first_accepted_ms, count.first_accepted_ms)
        self.last_accepted_ms = _choose(max, self.last_accepted_ms, count.last_accepted_ms)
        self.batched_ms = _choose(max, self.batched_ms, count.batched_ms)
        self.routed_ms = max(self.routed_ms, record.timestamp_ms)


def known(**keys: object) -> dict[str, object]:
    """These keys for a JSON object, without those that are None."""
    return {key: value for key, value in keys.items() if value is not None}


def _choose(choose: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else choose(one, other)
