"""Records of a History → one Server-Sent Event per micro-batch. Not thread-safe: for the thread that sends.

The text of an event is made once for all streams. Micro-batches are numbered from 0 in the order in which they close.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from emostream.deliver.history import Record
from emostream.deliver.stream.resume import EventId, Progress, covers, reach
from emostream.deliver.sums import Sum, known
from emostream.records import encode

# How long a micro-batch whose size is known waits for the last of its records.
WHOLE_WITHIN_SECONDS = 0.1
# How many texts of each kind are kept for other streams. Most streams need the newest ones.
MAX_TEXTS = 32
# The key of records without a batch id among the micro-batches that are open.
NO_ID = -1


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Records of one micro-batch that came together, and the id and the data of their event."""

    batch_id: int | None
    records: list[Record]
    event_id: EventId
    data: bytes

    @property
    def routed_ms(self) -> int:
        """When its newest record was published."""
        return max(record.timestamp_ms for record in self.records)


def event(event_id: EventId, data: bytes) -> bytes:
    """One Server-Sent Event."""
    return b"id: %s\ndata: %s\n\n" % (str(event_id).encode(), data)


def event_data(batch_id: int | None, records: Iterable[Record], merged: int, now_ms: int) -> bytes:
    """The sums per emoji of `merged` micro-batches as JSON, made at `now_ms`."""
    total, by_emoji = Sum(), dict[str, Sum]()
    for record in records:
        total.add(record)
        by_emoji.setdefault(record.count.emoji, Sum()).add(record)
    return encode(known(
        batch_id=batch_id,
        counts=[known(emoji=emoji, count=found.count, events=found.events) for emoji, found in by_emoji.items()],
        first_accepted_ms=total.first_accepted_ms, last_accepted_ms=total.last_accepted_ms,
        batched_ms=total.batched_ms, routed_ms=total.routed_ms, pushed_ms=now_ms, merged=merged,
        room=total.room or None,
    ))  # fmt: skip


def gap(reason: str) -> bytes:
    """The event that says: something is missing here."""
    return b"event: gap\ndata: %s\n\n" % encode({"reason": reason})


class MicroBatches:
    """The micro-batches of the last `max_age_seconds`. One is open for more records until it is closed."""

    def __init__(
        self, cluster: int, starts: Mapping[int, int], before: Mapping[int, int], max_age_seconds: float,
        max_records: int, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`starts` and `before` are those of Progress."""
        self.progress = Progress(cluster, starts, before)
        self.first = 0  # the number of the oldest micro-batch that is kept
        self._clock = clock
        self._max_age_ms = max_age_seconds * 1000
        self._max_records = max_records
        self._open: dict[int, tuple[float, list[Record]]] = {}  # batch id → when it was opened, its records
        self._newest_in_partition: dict[int, int] = {}  # partition → batch id of its last record
        self._closed: deque[MicroBatch] = deque()
        self._records = 0
        self._generation = 0
        self._forgotten = list(self.progress.offsets)  # per partition, the offset after the last forgotten record
        self._forgotten_batch_id = max(before.values(), default=-1)
        self._lost: set[int] = set()  # partitions whose next record shows how many records were lost
        self._events = lru_cache(MAX_TEXTS)(self._make_events)
        self._rest = lru_cache(MAX_TEXTS)(self._make_rest)

    @property
    def end(self) -> int:
        """The number that the next micro-batch will have."""
        return self.first + len(self._closed)

    def add(self, records: Sequence[Record], now: float) -> None:
        """Sort records that came together at `now` (monotonic seconds) into their micro-batches."""
        for record in records:
            if record.generation != self._generation:
                self._start_over(record.generation)
            batch_id = record.count.batch_id
            if batch_id is None or batch_id < 0:
                batch_id = NO_ID
            if record.partition in self._lost:
                self._lost.remove(record.partition)
                reach(self._forgotten, record.partition, record.offset)
                self._forgotten_batch_id = max(self._forgotten_batch_id, batch_id)
            # In each partition the offsets must grow from one closed micro-batch to the next: resuming relies on that.
            # So nothing stays open when the batch ids start over, or between records with an id and those without.
            if batch_id < self._newest_in_partition.get(record.partition, NO_ID):
                self._close_all()
            if batch_id not in self._open:
                if batch_id == NO_ID or NO_ID in self._open:
                    self._close_all()
                self._open[batch_id] = now, []
            self._newest_in_partition[record.partition] = batch_id
            self._open[batch_id][1].append(record)
        if NO_ID in self._open:
            self._close_all()

    def lose(self) -> None:
        """Note that the history dropped records before they came here. Every stream has a gap now."""
        self._close_all()
        while self._closed:
            self._forget_oldest()
        self.first += 1
        self._lost = set(range(len(self.progress.offsets)))

    def close_due(self, now: float) -> float | None:
        """Close micro-batches that are whole, or have waited for long enough, or do not say how many records they have.

        Return the seconds until the next one is due; None when no micro-batch is open.
        """
        while self._open:
            batch_id = min(self._open)
            since, records = self._open[batch_id]
            left = since + WHOLE_WITHIN_SECONDS - now
            if left > 0 and all(len(records) < (record.count.batch_emojis or 0) for record in records):
                return left
            self._close(batch_id)
        return None

    def whole_until(self, batch_id: int) -> None:
        """Note that all records of the micro-batches up to this one have come here."""
        self.progress.whole_until(min([batch_id, *(open_id - 1 for open_id in self._open)]))

    def routed_ms(self, first: int) -> list[int]:
        """When each micro-batch from number `first` on was published."""
        return [batch.routed_ms for batch in self._between(first, self.end)]

    def forget(self, now_ms: float) -> None:
        """Forget micro-batches that are too old or too many."""
        oldest_ms = now_ms - self._max_age_ms
        while self._closed and (self._records > self._max_records or self._closed[0].routed_ms < oldest_ms):
            self._forget_oldest()

    def events(self, first: int, merge: bool) -> bytes:
        """The events from number `first` to the end: one after another, or merged into one event with the sums.

        A gap event comes first when some of them are forgotten.
        """
        return self._events(first, self.end, merge)

    def recent(self, seconds: int) -> bytes:
        """One event with the data of every micro-batch of the last `seconds`, and the id to resume from."""
        now_ms = self._now_ms()
        since_ms = now_ms - seconds * 1000
        batches = b",".join(batch.data for batch in self._closed if batch.routed_ms >= since_ms)
        text = b'id: %s\nevent: recent\ndata: {"pushed_ms":%d,"batches":[%s]}\n\n'
        return text % (str(self.progress.event_id()).encode(), now_ms, batches)

    def why_gap(self, event_id: EventId) -> str | None:
        """Why a stream that resumes after this id misses something; None when it misses nothing."""
        forgotten = "what happened since this stream ended is no longer kept"
        if event_id.cluster == self.progress.cluster:
            return None if covers(event_id.offsets, self._forgotten) else forgotten
        if event_id.batch_id is None:
            return "this is another cluster, and the last event of the stream has no batch_id to resume from"
        if self._forgotten_batch_id > event_id.batch_id:
            return forgotten
        if event_id.partial:
            return "this is another cluster, and the stream has seen only a part of its last micro-batch"
        return None

    def rest(self, event_id: EventId) -> bytes:
        """The events for a stream that resumes after this id: everything that is kept and that it has not seen."""
        return self._rest(event_id, self.end)

    def _between(self, first: int, end: int) -> list[MicroBatch]:
        return list(islice(self._closed, max(0, first - self.first), end - self.first))

    def _make_events(self, first: int, end: int, merge: bool) -> bytes:
        found = self._between(first, end)
        if merge and len(found) > 1:
            made = self._sum(self.progress.event_id(), [(batch.batch_id, batch.records) for batch in found])
        else:
            made = b"".join(event(batch.event_id, batch.data) for batch in found)
        if first < self.first:
            made = gap("this stream was too slow; what it did not take in time is no longer kept") + made
        return made

    def _make_rest(self, event_id: EventId, end: int) -> bytes:
        seen, made = self._seen_offsets(event_id), []
        parts: list[tuple[int | None, list[Record]]] = []
        for batch in self._between(self.first, end):
            unseen = [record for record in batch.records if record.offset >= seen[record.partition]]
            covers_seen = covers(batch.event_id.offsets, seen)
            if covers_seen and not parts and len(unseen) == len(batch.records):
                made.append(event(batch.event_id, batch.data))
                continue
            if unseen:
                parts.append((batch.batch_id, unseen))
            # The stream has seen a part of this micro-batch, or later ones. No id says exactly that. So the unseen part
            # goes out with the first micro-batch whose id covers all that the stream has seen.
            if covers_seen and parts:
                made.append(self._sum(batch.event_id, parts))
                parts = []
        return b"".join(made)

    def _seen_offsets(self, event_id: EventId) -> list[int]:
        """Per partition of this topic, the offset after the last record that a stream with this id has seen."""
        offsets, seen = list(self._forgotten), True
        reach(offsets, len(self.progress.offsets) - 1, 0)  # of every partition that has a record in self._closed
        if event_id.cluster == self.progress.cluster:
            for partition, offset in enumerate(event_id.offsets):
                reach(offsets, partition, offset)
            return offsets
        for batch in self._closed:
            if batch.batch_id is not None:  # counts without an id belong to the micro-batch before them
                seen = event_id.batch_id is None or batch.batch_id <= event_id.batch_id
            for record in batch.records if seen else ():
                offsets[record.partition] = max(offsets[record.partition], record.offset + 1)
        return offsets

    def _close_all(self) -> None:
        for batch_id in sorted(self._open):
            self._close(batch_id)
        self._newest_in_partition.clear()

    def _close(self, key: int) -> None:
        records, batch_id = self._open.pop(key)[1], None if key == NO_ID else key
        self.progress.close(batch_id, records, max(record.count.batch_emojis or math.inf for record in records))
        event_id = self.progress.event_id(numbered=batch_id is not None)
        data = event_data(batch_id, records, 1, self._now_ms())
        self._closed.append(MicroBatch(batch_id, records, event_id, data))
        self._records += len(records)

    def _sum(self, event_id: EventId, parts: Sequence[tuple[int | None, list[Record]]]) -> bytes:
        """One event for the records of several micro-batches."""
        ids = [batch_id for batch_id, _ in parts if batch_id is not None]
        records = (record for _, found in parts for record in found)
        merged = len(set(ids)) + len(parts) - len(ids)
        return event(event_id, event_data(ids[-1] if ids else None, records, merged, self._now_ms()))

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _forget_oldest(self) -> None:
        oldest = self._closed.popleft()
        self.first += 1
        self._records -= len(oldest.records)
        self.progress.forget(oldest.batch_id)
        for record in oldest.records:
            reach(self._forgotten, record.partition, record.offset + 1)
        if oldest.batch_id is not None:
            self._forgotten_batch_id = oldest.batch_id

    def _start_over(self, generation: int) -> None:
        """The topic was replaced: its offsets count from 0 again."""
        self._close_all()
        while self._closed:
            self._forget_oldest()
        self._generation = generation
        self.progress.start_over()
        self._forgotten = list(self.progress.offsets)
