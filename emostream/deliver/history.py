"""The last MAX_AGE_SECONDS of a cluster topic, shared by all that a subscriber serves; each has a cursor into it.

So a slow client costs a cursor, not a queue: memory is bounded once for all, and Kafka holds what is older.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Times(NamedTuple):
    """When the oldest and the newest tap of a count were accepted and when it was counted, in Unix milliseconds."""

    first_accepted_ms: int
    last_accepted_ms: int
    batched_ms: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the cluster topic; `timestamp_ms` is when it was published, in Unix milliseconds.

    `generation` grows when the topic is replaced, and offsets start over. `read_at` is when it came here, by the
    monotonic clock.
    """

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes
    generation: int = 0
    read_at: float = field(default_factory=time.monotonic, compare=False)
    times: Times | None = field(default=None, compare=False)  # where the record says them


class History:
    """A sliding window of records, numbered from 0 in the order in which they were read."""

    def __init__(self, max_age_seconds: float, max_records: int) -> None:
        """`max_records` bounds memory where very much happens within `max_age_seconds`: the oldest go first."""
        self._max_age_ms = max_age_seconds * 1000
        self._max_records = max_records
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._records: list[Record] = []
        self._first = 0
        self.overflowed = 0  # the cursor after the last record that had to go because there were too many

    @property
    def start(self) -> int:
        """The cursor of the oldest record that is still there."""
        with self._lock:
            return self._first

    @property
    def end(self) -> int:
        """The cursor that the next record will have."""
        with self._lock:
            return self._first + len(self._records)

    def on_append(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, in the thread that appends, whenever there is something new; it must not block."""
        self._listeners.append(tell)

    def append(self, records: list[Record], now_ms: float) -> None:
        """Add records, forget those that are too old or too many, and tell every listener."""
        with self._lock:
            self._records += records
            too_many = len(self._records) - self._max_records
            gone = max(0, too_many)
            while gone < len(self._records) and self._records[gone].timestamp_ms < now_ms - self._max_age_ms:
                gone += 1
            if too_many > 0:
                self.overflowed = self._first + too_many
            del self._records[:gone]
            self._first += gone
        if records:
            for tell in self._listeners:
                tell()

    def after(self, cursor: int, limit: int) -> tuple[int, list[Record]]:
        """`(first, records)`: up to `limit` records from `cursor` on, where `first` is the cursor of the first one.

        `first` is above `cursor` where records between were forgotten.
        """
        with self._lock:
            first = max(cursor, self._first)
            return first, self._records[first - self._first : first - self._first + limit]
