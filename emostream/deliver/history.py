"""Records of a cluster topic → a window of the last MAX_AGE_SECONDS, shared by all clients and streams of a subscriber.

Each reader has a cursor into the window, and no queue of its own. So memory has one bound for all readers, and a slow
reader costs only a number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from emostream.records import Count


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of the cluster topic. Clients get its `value` as it is; `count` is the same, decoded.

    It was published at `timestamp_ms` (Unix milliseconds) and read at `read_at` (monotonic seconds). `generation` grows
    when the topic is replaced, so that its offsets begin again with 0.
    """

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes
    count: Count
    generation: int = 0
    read_at: float = msgspec.field(default_factory=time.monotonic)


class History:
    """A sliding window of records. A record's cursor is its number, from 0, in the order in which they were read."""

    def __init__(self, max_age_seconds: float, max_records: int) -> None:
        """`max_records` bounds the memory. When more records come within `max_age_seconds`, the oldest are dropped."""
        self._max_age_ms = max_age_seconds * 1000
        self.max_records = max_records
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._records: list[Record] = []
        self._first = 0
        self.overflowed = 0  # the cursor after the last record that was dropped for `max_records`

    @property
    def start(self) -> int:
        """The cursor of the oldest record in the window."""
        with self._lock:
            return self._first

    @property
    def end(self) -> int:
        """The cursor that the next record will have."""
        with self._lock:
            return self._first + len(self._records)

    def on_append(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each append, in the thread that appends. It must not block."""
        self._listeners.append(listener)

    def append(self, records: list[Record], now_ms: float) -> None:
        """Add records, remove those that are too old or too many, and call the listeners."""
        with self._lock:
            self._records += records
            too_many = len(self._records) - self.max_records
            gone = max(0, too_many)
            while gone < len(self._records) and self._records[gone].timestamp_ms < now_ms - self._max_age_ms:
                gone += 1
            if too_many > 0:
                self.overflowed = self._first + too_many
            del self._records[:gone]
            self._first += gone
        if records:
            for listener in self._listeners:
                listener()

    def after(self, cursor: int, limit: int) -> tuple[int, list[Record]]:
        """Up to `limit` records from `cursor` on, with the cursor of the first one.

        That is greater than `cursor` if the records between the two are no longer in the window.
        """
        with self._lock:
            first = max(cursor, self._first)
            return first, self._records[first - self._first : first - self._first + limit]
