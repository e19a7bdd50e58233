"""Records of a History → one Server-Sent Event per micro-batch. Not thread-safe: for the thread that sends.

The text of an event is made once for all streams.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from emostream.deliver.history import Record
from emostream.deliver.stream.resume import EventId, Progress, covers, reach
from emostream.deliver.sums import Sum, known
from emostream.records import encode

# How long a micro-batch that says how many records it has may wait for the last of them.
WHOLE_WITHIN_SECONDS = 0.1
# Texts that are kept for all streams until there is a new event. Each id that streams come back with has its own.
MAX_TEXTS = 64


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The records of one micro-batch that came together, the id of a stream that has them, and their event."""

    batch_id: int | None
    records: list[Record]
    event_id: EventId
    event: bytes

    @property
    def data(self) -> bytes:
        """The JSON in its event."""
        return self.event.split(b"\n")[1].removeprefix(b"data: ")

    @property
    def routed_ms(self) -> int:
        """When it was published: its newest record."""
        return max(record.timestamp_ms for record in self.records)


def event(event_id: EventId, batch_id: int | None, records: Iterable[Record], merged: int, now_ms: int) -> bytes:
    """One Server-Sent Event, made at `now_ms`, with the counts of `merged` micro-batches, summed per emoji."""
    total, by_emoji = Sum(), dict[str, Sum]()
    for record in records:
        total.add(record)
        by_emoji.setdefault(record.count.emoji, Sum()).add(record)
    data = known(
        batch_id=batch_id,
        counts=[known(emoji=emoji, count=found.count, events=found.events) for emoji, found in by_emoji.items()],
        first_accepted_ms=total.first_accepted_ms, last_accepted_ms=total.last_accepted_ms,
        batched_ms=total.batched_ms, routed_ms=total.routed_ms, pushed_ms=now_ms, merged=merged,
    )  # fmt: skip
    return b"id: %s\ndata: %s\n\n" % (str(event_id).encode(), encode(data))


def gap(reason: str) -> bytes:
    """The event that says that something is missing before the next one."""
    return b"event: gap\ndata: %s\n\n" % encode({"reason": reason})


class MicroBatches:
    """The micro-batches of the last `max_age_seconds`, numbered from 0 in the order in which they were closed."""

    def __init__(
        self, cluster: int, starts: Mapping[int, int], before: Mapping[int, int], max_age_seconds: float,
        max_records: int, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`starts` is the first offset of each partition, `before` the micro-batch of the record before it, if any."""
        self._progress = Progress(cluster, starts, before)
        self._clock = clock
        self._max_age_ms = max_age_seconds * 1000
        self._max_records = max_records
        self._open: dict[int, tuple[float, list[Record]]] = {}  # batch id → since when, what
        self._newest_in_partition: dict[int, int] = {}
        self._closed: deque[MicroBatch] = deque()
        self._records = 0
        self._generation = 0
        self._forgotten = list(self._progress.offsets)  # per partition, the offset after what is not kept any more
        self._forgotten_batch_id = max(before.values(), default=-1)
        self._lost: set[int] = set()  # partitions of which records were lost, until the next one shows how many
        self._texts: dict[tuple[int | EventId, int, bool | str], bytes] = {}
        self.first = 0  # the number of the oldest micro-batch that is kept

    @property
    def end(self) -> int:
        """The number that the next micro-batch will have."""
        return self.first + len(self._closed)

    @property
    def event_id(self) -> EventId:
        """The id of a stream that has everything."""
        return self._progress.event_id()

    def add(self, records: Sequence[Record], now: float) -> None:
        """Sort records that came together at `now` (monotonic seconds) into their micro-batches."""
        unnumbered: list[Record] = []
        for record in records:
            if record.generation != self._generation:
                self._close_all()
                self._start_over(record.generation)
            batch_id = record.count.batch_id
            if record.partition in self._lost:
                self._lost.remove(record.partition)
                reach(self._forgotten, record.partition, record.offset)
                self._forgotten_batch_id = max(self._forgotten_batch_id, -1 if batch_id is None else batch_id)
            if batch_id is None or batch_id < 0:
                self._close_all()  # to keep the order
                unnumbered.append(record)
                continue
            if unnumbered:
                self._close(None, unnumbered)
                unnumbered = []
            # Micro-batches are closed in the order of their ids, so the offsets of each partition grow from one to the
            # next, which resuming relies on. When ids start over, close first what is open.
            if batch_id < self._newest_in_partition.get(record.partition, 0):
                self._close_all()
                self._newest_in_partition.clear()
            self._newest_in_partition[record.partition] = batch_id
            self._open.setdefault(batch_id, (now, []))[1].append(record)
        if unnumbered:
            self._close(None, unnumbered)

    def lose(self) -> None:
        """Note that records were forgotten before they came here: every stream has a gap now."""
        self._close_all()
        while self._closed:
            self._forget_oldest()
        self.first += 1
        self._lost = set(range(len(self._progress.offsets)))

    def close_due(self, now: float) -> float | None:
        """Close micro-batches that are whole or have waited enough; returns the seconds until the next is due.

        None when no micro-batch is open. One that does not say how many records it has is what came together.
        """
        while self._open:
            batch_id = min(self._open)
            since, records = self._open[batch_id]
            left = since + WHOLE_WITHIN_SECONDS - now
            if left > 0 and all(len(records) < (record.count.batch_emojis or 0) for record in records):
                return left
            self._close(batch_id, self._open.pop(batch_id)[1])
        return None

    def routed_ms(self, first: int) -> list[int]:
        """When each micro-batch from number `first` on was published."""
        return [batch.routed_ms for batch in self._from(first)]

    def forget(self, now_ms: float) -> None:
        """Forget micro-batches that are too old or too many."""
        while self._closed:
            is_young = self._closed[0].routed_ms >= now_ms - self._max_age_ms
            if is_young and self._records <= self._max_records:
                return
            self._forget_oldest()

    def events(self, first: int, merge: bool) -> bytes:
        """The events from number `first` to the end: one after another, or as one event with the sums.

        Begins with a gap event when some of them are forgotten.
        """
        return self._once((first, self.end, merge), lambda: self._events(first, merge))

    def recent(self, seconds: int) -> bytes:
        """One event with the data of every micro-batch of the last `seconds`, and the id of a stream that has them."""
        now_ms = self._now_ms()
        since_ms = now_ms - seconds * 1000
        first = self.first + sum(batch.routed_ms < since_ms for batch in self._closed)
        batches = self._once((first, self.end, "recent"), lambda: b",".join(b.data for b in self._from(first)))
        text = b'id: %s\nevent: recent\ndata: {"pushed_ms":%d,"batches":[%s]}\n\n'
        return text % (str(self.event_id).encode(), now_ms, batches)

    def has(self, event_id: EventId) -> bool:
        """Whether everything that a stream with this id has seen is known to have come here."""
        return self._progress.has(event_id)

    def is_before(self, event_id: EventId) -> bool:
        """Whether a stream with this id has certainly seen something that has not come here."""
        return self._progress.is_before(event_id)

    def why_gap(self, event_id: EventId) -> str | None:
        """Why a stream that goes on after this id misses something; None when it misses nothing."""
        kept = "what happened since this stream ended is no longer kept"
        if event_id.cluster == self._progress.cluster:
            return None if covers(event_id.offsets, self._forgotten) else kept
        if event_id.batch_id is None:
            return "this is another cluster, and the last event of the stream has no batch_id to go on from"
        if self._forgotten_batch_id > event_id.batch_id:
            return kept
        if event_id.partial:
            return "this is another cluster, and the stream has seen only a part of its last micro-batch"
        return None

    def rest(self, event_id: EventId) -> bytes:
        """All events that are kept, without the records that a stream with this id has seen."""
        return self._once((event_id, self.end, False), lambda: self._rest(event_id))

    def _once(self, key: tuple[int | EventId, int, bool | str], make: Callable[[], bytes]) -> bytes:
        if self._texts and next(iter(self._texts))[1] != self.end:
            self._texts.clear()
        if key in self._texts:
            return self._texts[key]
        made = make()
        if len(self._texts) < MAX_TEXTS:
            self._texts[key] = made
        return made

    def _from(self, first: int) -> list[MicroBatch]:
        return list(islice(self._closed, max(0, first - self.first), None))

    def _events(self, first: int, merge: bool) -> bytes:
        found = self._from(first)
        if merge and len(found) > 1:
            made = self._sum(self.event_id, [(batch.batch_id, batch.records) for batch in found])
        else:
            made = b"".join(batch.event for batch in found)
        if first < self.first:
            made = gap("this stream was too slow; what it did not take in time is no longer kept") + made
        return made

    def _rest(self, event_id: EventId) -> bytes:
        seen, made = self._seen_offsets(event_id), []
        parts: list[tuple[int | None, list[Record]]] = []
        for batch in self._closed:
            unseen = [record for record in batch.records if record.offset >= seen[record.partition]]
            covers_seen = covers(batch.event_id.offsets, seen)
            if covers_seen and not parts and len(unseen) == len(batch.records):
                made.append(batch.event)
                continue
            if unseen:
                parts.append((batch.batch_id, unseen))
            # The stream has seen a part of this micro-batch, or later ones. No id says exactly that, so send what it
            # has not seen together with the next micro-batch whose id covers all of it.
            if covers_seen and parts:
                made.append(self._sum(batch.event_id, parts))
                parts = []
        return b"".join(made)

    def _seen_offsets(self, event_id: EventId) -> list[int]:
        """Per partition of this topic, the offset after the last record that a stream with this id has seen."""
        offsets, seen = list(self._forgotten), True
        reach(offsets, len(self._progress.offsets) - 1, 0)  # of every partition that has a record in self._closed
        if event_id.cluster == self._progress.cluster:
            for partition, offset in enumerate(event_id.offsets):
                reach(offsets, partition, offset)
            return offsets
        for batch in self._closed:
            if batch.batch_id is not None:  # counts without an id go with the micro-batch before them
                seen = event_id.batch_id is None or batch.batch_id <= event_id.batch_id
            for record in batch.records if seen else ():
                offsets[record.partition] = max(offsets[record.partition], record.offset + 1)
        return offsets

    def _close_all(self) -> None:
        for batch_id in sorted(self._open):
            self._close(batch_id, self._open.pop(batch_id)[1])

    def _close(self, batch_id: int | None, records: list[Record]) -> None:
        self._progress.close(batch_id, records, max(record.count.batch_emojis or math.inf for record in records))
        event_id = self._progress.event_id(numbered=batch_id is not None)
        text = event(event_id, batch_id, records, 1, self._now_ms())
        self._closed.append(MicroBatch(batch_id, records, event_id, text))
        self._records += len(records)

    def _sum(self, event_id: EventId, parts: Sequence[tuple[int | None, list[Record]]]) -> bytes:
        """One event for the records of several micro-batches."""
        ids = [batch_id for batch_id, _ in parts if batch_id is not None]
        records = (record for _, found in parts for record in found)
        merged = len(set(ids)) + len(parts) - len(ids)
        return event(event_id, ids[-1] if ids else None, records, merged, self._now_ms())

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _forget_oldest(self) -> None:
        oldest = self._closed.popleft()
        self.first += 1
        self._records -= len(oldest.records)
        self._progress.forget(oldest.batch_id)
        for record in oldest.records:
            reach(self._forgotten, record.partition, record.offset + 1)
        if oldest.batch_id is not None:
            self._forgotten_batch_id = oldest.batch_id

    def _start_over(self, generation: int) -> None:
        """The topic was replaced: its offsets count from 0 again."""
        while self._closed:
            self._forget_oldest()
        self._generation = generation
        self._progress.start_over()
        self._forgotten = list(self._progress.offsets)
        self._newest_in_partition.clear()
