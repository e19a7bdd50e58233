"""The last MAX_AGE_SECONDS of a cluster topic, shared by all that a subscriber serves; each has a cursor into it.

So a slow client costs a cursor, not a queue: memory is bounded once for all, and Kafka holds what is older.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the cluster topic; `timestamp_ms` is when it was published, in Unix milliseconds.

    `generation` grows when the topic is replaced, and offsets start over.
    """

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes
    generation: int = 0


class History:
    """A sliding window of records, numbered from 0 in the order in which they were read."""

    def __init__(self, max_age_seconds: float, max_records: int) -> None:
        """`max_records` bounds memory where very much happens within `max_age_seconds`: the oldest go first."""
        self._max_age_ms = max_age_seconds * 1000
        self._max_records = max_records
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._records: deque[Record] = deque()
        self._first = 0

    @property
    def start(self) -> int:
        """The cursor of the oldest record that is still there."""
        with self._changed:
            return self._first

    @property
    def end(self) -> int:
        """The cursor that the next record will have."""
        with self._changed:
            return self._first + len(self._records)

    def on_append(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, in the thread that appends, whenever there is something new; it must not block."""
        self._listeners.append(tell)

    def append(self, records: list[Record], now_ms: float) -> None:
        """Add records, forget those that are too old or too many, and tell every listener."""
        with self._changed:
            self._records.extend(records)
            while self._records and (
                len(self._records) > self._max_records or self._records[0].timestamp_ms < now_ms - self._max_age_ms
            ):
                self._records.popleft()
                self._first += 1
            self._changed.notify_all()
        if records:
            for tell in self._listeners:
                tell()

    def after(self, cursor: int, limit: int, timeout_seconds: float = 0.0) -> tuple[int, list[Record]]:
        """`(first, records)`: up to `limit` records from `cursor` on, where `first` is the cursor of the first one.

        Waits up to `timeout_seconds` for one. `first` is above `cursor` where records between were forgotten.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._first + len(self._records) > cursor, timeout_seconds)
            first = max(cursor, self._first)
            return first, list(islice(self._records, first - self._first, first - self._first + limit))
