"""Records of a cluster topic → one history for each room that somebody listens to.

A room costs nothing while nobody listens to it: its records wait as bytes, because their keys name the room. They are
decoded when the first listener comes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from kafka.consumer.fetcher import ConsumerRecord

from emostream.consumers import skip_record
from emostream.deliver.history import History, Record
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import InvalidRecord, parse_count, room_of

DEFAULT_ROOM = ""
# All histories share MAX_RECORDS, but each may have this many.
LEAST_RECORDS = 1_000
FORGET_EVERY_MS = 500
# Of so many rooms we remember where their forgotten records ended. Made-up names must not fill the memory.
MAX_REMEMBERED = 10_000


@dataclass
class Room:
    """The history of a room with listeners, and where it began.

    `starts`: the first offset of each partition. `before`: the micro-batch of the record before it, if there was one.
    """

    history: History
    starts: Mapping[int, int]
    before: Mapping[int, int]
    listeners: int = 0


class Rooms:
    """The rooms of a cluster topic. One thread appends; any thread may open and close a room."""

    def __init__(self, max_age_seconds: float, max_records: int, counters: Metrics, log: Log) -> None:
        """`max_records` bounds the records that wait, and those that are decoded."""
        self.max_age_seconds = max_age_seconds
        # Every micro-batch up to this one is here with all its records, of all rooms; None if that is not known.
        self.whole_until: int | None = None
        self._max_records = max_records
        self._counters = counters
        self._log = log
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._open: dict[str, Room] = {}
        self._waiting: dict[str, deque[ConsumerRecord]] = {}  # of every room but the default one
        self._order: deque[tuple[int, str]] = deque()  # when each of these was published, and its room
        self._forgotten: OrderedDict[str, dict[int, ConsumerRecord]] = OrderedDict()  # the last ones, by partition
        self._generation = 0
        self._forget_ms = 0.0  # when the next look for records that are too old is due, in Unix milliseconds
        self._starts: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self.open(DEFAULT_ROOM)  # it is never closed

    def begin(self, starts: Mapping[int, int], before: Mapping[int, int]) -> None:
        """Note where our part of the topic begins. The arguments are those of Room."""
        with self._lock:
            self._starts, self._before = dict(starts), dict(before)
            self._open[DEFAULT_ROOM].starts, self._open[DEFAULT_ROOM].before = dict(starts), dict(before)

    def start_over(self, generation: int, partitions: Iterable[int]) -> None:
        """The topic was replaced. Forget what waits; the histories of open rooms go on."""
        with self._lock:
            self._generation = generation
            self._starts, self._before = dict.fromkeys(partitions, 0), {}
            for records in (self._waiting, self._order, self._forgotten):
                records.clear()

    def on_append(self, listener: Callable[[], None]) -> None:
        """Call `listener` in the thread that appends, when a room has new records. It must not block."""
        with self._lock:
            self._listeners.append(listener)
            for room in self._open.values():
                room.history.on_append(listener)

    def open(self, name: str) -> Room:
        """Return a room for one more listener, with all that is kept of it."""
        with self._lock:
            room = self._open.get(name)
            if room is None:
                self._open[name] = room = self._make(name)
            room.listeners += 1
            return room

    def close(self, name: str) -> None:
        """Note that a listener has left. The last one takes the history with it."""
        with self._lock:
            room = self._open[name]
            room.listeners -= 1
            if not room.listeners:
                del self._open[name]

    def append(self, records: Iterable[ConsumerRecord], caught_up: bool) -> int:
        """Add records in the order in which they were read. Return how many were good.

        `caught_up`: there were no more records on the topic.
        """
        now_ms = time.time() * 1000
        decoded: dict[str, list[Record]] = {}
        last: dict[int, ConsumerRecord] = {}
        with self._lock:
            good = 0
            for record in records:
                try:
                    name = room_of(record.key, record.value or b"")
                    if name in self._open:
                        decoded.setdefault(name, []).append(self._decode(record))
                except InvalidRecord as error:
                    skip_record(record, error, self._counters, self._log)
                    continue
                good += 1
                last[record.partition] = record
                if name != DEFAULT_ROOM:
                    self._waiting.setdefault(name, deque()).append(record)
                    self._order.append((record.timestamp, name))
            if now_ms >= self._forget_ms:
                self._forget_ms = now_ms + FORGET_EVERY_MS
                self._forget(now_ms)
                decoded = {name: [] for name in self._open} | decoded
            for name, found in decoded.items():
                self._open[name].history.append(found, now_ms)
        if last:
            newest = max(filter(None, map(batch_id_of, last.values())), default=0)
            # The records of the newest micro-batch may still be on their way.
            self.whole_until = newest - 1 if caught_up and newest else None
        return good

    def _make(self, name: str) -> Room:
        gone = self._forgotten.get(name, {})
        starts = self._starts | {partition: record.offset + 1 for partition, record in gone.items()}
        ids = {partition: batch_id_of(record) for partition, record in gone.items()}
        before = self._before | {partition: batch_id for partition, batch_id in ids.items() if batch_id is not None}
        history = History(self.max_age_seconds, max(LEAST_RECORDS, self._max_records // (len(self._open) + 1)))
        found = []
        for record in self._waiting.get(name, ()):
            try:
                found.append(self._decode(record))
            except InvalidRecord as error:
                skip_record(record, error, self._counters, self._log)
        history.append(found, time.time() * 1000)
        for listener in self._listeners:
            history.on_append(listener)
        return Room(history, starts, before)

    def _decode(self, record: ConsumerRecord) -> Record:
        count = parse_count(record.value)
        return Record(record.partition, record.offset, record.timestamp, record.value, count, self._generation)

    def _forget(self, now_ms: float) -> None:
        """Forget waiting records that are too old or too many."""
        oldest_ms = now_ms - self.max_age_seconds * 1000
        while self._order and (len(self._order) > self._max_records or self._order[0][0] < oldest_ms):
            _, name = self._order.popleft()
            record = self._waiting[name].popleft()
            if not self._waiting[name]:
                del self._waiting[name]
            self._forgotten.setdefault(name, {})[record.partition] = record
            self._forgotten.move_to_end(name)
        while len(self._forgotten) > MAX_REMEMBERED:
            # Any room may have lost records up to there now.
            for partition, record in self._forgotten.popitem(last=False)[1].items():
                self._starts[partition] = max(self._starts.get(partition, 0), record.offset + 1)
                batch_id = batch_id_of(record)
                if batch_id is not None:
                    self._before[partition] = max(self._before.get(partition, 0), batch_id)


def batch_id_of(record: ConsumerRecord) -> int | None:
    """The micro-batch of a record that is not decoded; None if it does not say."""
    with suppress(InvalidRecord):
        return parse_count(record.value).batch_id
    return None
