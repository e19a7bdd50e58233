"""Records of a History → one Server-Sent Event per micro-batch, each with the place on the topic at which it ends.

The text of an event is made once for all streams. Not thread-safe: it belongs to the thread that sends.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from emostream.deliver.history import Record
from emostream.deliver.stream.resume import Place, Progress, Reached, SeenHere, beyond
from emostream.records import Count, InvalidRecord, encode, parse_whole_count

# How long a micro-batch that says how many records it has may wait for the last of them.
WHOLE_WITHIN_SECONDS = 0.1
# Texts that are kept for all streams until there is a new event; every place that streams come back with has its own.
MAX_MADE = 64

Counted = list[tuple[Record, Count]]


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one micro-batch, as far as they came together, the place after them, and their event.

    `reached` is as in a Place, but always there.
    """

    records: Counted
    place: Place
    reached: tuple[Reached | None, ...]
    wire: bytes


def event(place: Place, counted: Iterable[tuple[Record, Count]], merged: int, now_ms: int) -> bytes:
    """One Server-Sent Event, made at `now_ms`, with the counts of `merged` micro-batches, summed per emoji."""
    by_emoji: dict[str, dict[str, object]] = {}
    data: dict[str, object] = {} if place.batch_id is None else {"batch_id": place.batch_id}
    data["counts"] = ()
    routed_ms = 0
    for record, count in counted:
        routed_ms = max(routed_ms, record.timestamp_ms)
        summed = by_emoji.setdefault(count.emoji, {"emoji": count.emoji, "count": 0})
        summed["count"] += count.count  # type: ignore[operator]
        if count.events is not None:
            summed["events"] = summed.get("events", 0) + count.events  # type: ignore[operator]
        for key, choose in (("first_accepted_ms", min), ("last_accepted_ms", max), ("batched_ms", max)):
            value = getattr(count, key)
            if value is not None:
                data[key] = choose(data.get(key, value), value)
    data["counts"] = list(by_emoji.values())
    data |= {"routed_ms": routed_ms, "pushed_ms": now_ms}
    data["merged"] = merged
    return b"id: %s\ndata: %s\n\n" % (str(place).encode(), encode(data))


def gap(reason: str) -> bytes:
    """The event that says that something is missing before the next one."""
    return b"event: gap\ndata: %s\n\n" % encode({"reason": reason})


class Batches:
    """The micro-batches of the last `max_age_seconds`, numbered from 0 in the order in which they were closed."""

    def __init__(
        self, cluster: int, starts: Mapping[int, int], before: Mapping[int, int], max_age_seconds: float,
        max_records: int, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`starts` is the offset per partition from which on records come, `before` the batch id of the one before."""
        self._progress = Progress(cluster, starts, before)
        self._clock = clock
        self._max_age_ms = max_age_seconds * 1000
        self._max_records = max_records
        self._open: dict[int, tuple[float, Counted]] = {}  # batch id → since when, what
        self._newest_in_partition: dict[int, int] = {}
        self._closed: deque[Batch] = deque()
        self._records = 0
        self._generation = 0
        self._forgotten = list(self._progress.offsets)
        self._forgotten_reached = list(self._progress.reached)
        self._forgotten_batch_id = max(before.values(), default=None)
        self._lost = False
        self.first = 0  # the number of the oldest batch that is still there
        self._made: dict[tuple[int | Place, int, bool], bytes] = {}

    @property
    def end(self) -> int:
        """The number that the next batch will have."""
        return self.first + len(self._closed)

    @property
    def place(self) -> Place:
        """Where a stream is that has everything."""
        return self._progress.place(self._progress.newest)

    def add(self, records: Sequence[Record], now: float) -> None:
        """Take records that came together at `now` (monotonic seconds) into their micro-batches."""
        alone: Counted = []
        for record in records:
            if record.generation != self._generation:
                self._close_all()
                self._start_over(record.generation)
            if self._lost:
                self._forgotten[record.partition] = max(self._forgotten[record.partition], record.offset)
            try:
                count = parse_whole_count(record.value)
            except InvalidRecord:
                continue  # skipped and counted where it was read
            batch_id = count.batch_id
            if batch_id is None or batch_id < 0:
                self._close_all()  # what was before it goes before it
                alone.append((record, count))
                continue
            if alone:
                self._close(None, alone)
                alone = []
            if self._lost:
                self._progress.lose(record.partition, batch_id)
                self._forgotten_reached[record.partition] = Reached(batch_id, 0)
                self._forgotten_batch_id = batch_id
            # Micro-batches are closed in the order of their ids, and with it the offsets of every partition grow from
            # one to the next, which resuming by them relies on. Where ids start over, what is open has to go first.
            if batch_id < self._newest_in_partition.get(record.partition, 0):
                self._close_all()
                self._newest_in_partition.clear()
            self._newest_in_partition[record.partition] = batch_id
            self._open.setdefault(batch_id, (now, []))[1].append((record, count))
        self._lost = False
        if alone:
            self._close(None, alone)

    def lose(self) -> None:
        """Note that records were forgotten before they came here: every stream has a gap now."""
        self._close_all()
        while self._closed:
            self._forget_oldest()
        self.first += 1
        self._lost = True

    def close_due(self, now: float) -> float | None:
        """Close micro-batches that are whole or have waited enough; seconds until the next has; None: none waits."""
        while self._open:
            batch_id = min(self._open)
            since, records = self._open[batch_id]
            left = since + WHOLE_WITHIN_SECONDS - now
            # One that does not say how many records it has is what came together.
            if left > 0 and all(len(records) < (count.batch_emojis or 0) for _, count in records):
                return left
            self._close(batch_id, self._open.pop(batch_id)[1])
        return None

    def routed_ms(self, first: int) -> list[int]:
        """When each micro-batch from number `first` on was published, its newest record that is."""
        found = islice(self._closed, max(0, first - self.first), None)
        return [max(record.timestamp_ms for record, _ in batch.records) for batch in found]

    def forget(self, now_ms: float) -> None:
        """Let go of what is older than the bound, or too much."""
        while self._closed:
            oldest = self._closed[0]
            newest_ms = max(record.timestamp_ms for record, _ in oldest.records)
            if newest_ms >= now_ms - self._max_age_ms and self._records <= self._max_records:
                return
            self._forget_oldest()

    def events(self, first: int, merge: bool) -> bytes:
        """The events from number `first` to the end: one after another, or as one whose counts are the sums.

        Begins with a gap event where some of them are forgotten.
        """
        return self._once((first, self.end, merge), lambda: self._events(first, merge))

    def has(self, place: Place) -> bool:
        """Whether all that a stream has seen that was at `place`, at another subscriber, is known to have come here."""
        return self._progress.has(place)

    def is_before(self, place: Place) -> bool:
        """Whether a stream that was at `place`, at another subscriber, has seen what has not come here."""
        return self._progress.is_before(place)

    def why_gap(self, place: Place) -> str | None:
        """Why a stream that was at `place` misses something; None where it does not."""
        kept = "what happened since this stream ended is no longer kept"
        if place.cluster == self._progress.cluster:
            if len(place.offsets) != len(self._forgotten):
                return "the topic has another number of partitions than when this stream ended"
            return kept if any(p < f for p, f in zip(place.offsets, self._forgotten, strict=True)) else None
        if place.reached is not None:
            return kept if any(map(beyond, self._forgotten_reached, place.reached)) else None
        if place.batch_id is None:
            return "this is another cluster, and the event it ended with has no batch_id to go on from"
        return kept if (self._forgotten_batch_id or 0) > place.batch_id else None

    def rest(self, place: Place) -> bytes:
        """The events that there are, without what a stream that was at `place` has seen."""
        return self._once((place, self.end, False), lambda: self._rest(place))

    def _once(self, key: tuple[int | Place, int, bool], make: Callable[[], bytes]) -> bytes:
        if self._made and next(iter(self._made))[1] != self.end:
            self._made.clear()
        if key in self._made:
            return self._made[key]
        made = make()
        if len(self._made) < MAX_MADE:
            self._made[key] = made
        return made

    def _events(self, first: int, merge: bool) -> bytes:
        found = list(islice(self._closed, max(0, first - self.first), None))
        if merge and len(found) > 1:
            counts = (counted for batch in found for counted in batch.records)
            ids = [batch.place.batch_id for batch in found]
            made = self._event(self.place, counts, merged=len({i for i in ids if i is not None}) + ids.count(None))
        else:
            made = b"".join(batch.wire for batch in found)
        if first < self.first:
            made = gap("this stream was too slow; what it did not take in time is no longer kept") + made
        return made

    def _rest(self, place: Place) -> bytes:
        seen = SeenHere(place, self._progress.cluster, self._forgotten, self._forgotten_reached)
        for batch in self._closed:
            seen.look(batch.place.batch_id, [record for record, _ in batch.records], batch.reached)
        offsets, reached, made = seen.offsets, seen.reached, []
        for batch in self._closed:
            records = [(r, c) for r, c in batch.records if r.offset >= offsets[r.partition]]
            after = batch.place
            # It may have seen more of some partitions than all batches up to this one hold.
            farther = [theirs > ours for theirs, ours in zip(offsets, after.offsets, strict=True)]
            if any(farther):
                both = zip(farther, reached, batch.reached, strict=True)
                joined = tuple(theirs if is_farther else ours for is_farther, theirs, ours in both)
                after = Place(after.cluster, after.batch_id, tuple(map(max, offsets, after.offsets)), joined)
            if len(records) == len(batch.records) and after is batch.place:
                made.append(batch.wire)
            elif records:
                made.append(self._event(after, records))
        return b"".join(made)

    def _close_all(self) -> None:
        for batch_id in sorted(self._open):
            self._close(batch_id, self._open.pop(batch_id)[1])

    def _close(self, batch_id: int | None, records: Counted) -> None:
        size = max((count.batch_emojis or math.inf for _, count in records), default=0)
        self._progress.close(batch_id, [record for record, _ in records], size)
        place = self._progress.place(batch_id)
        self._closed.append(Batch(records, place, tuple(self._progress.reached), self._event(place, records)))
        self._records += len(records)

    def _event(self, place: Place, counted: Iterable[tuple[Record, Count]], merged: int = 1) -> bytes:
        return event(place, counted, merged, round(self._clock() * 1000))

    def _forget_oldest(self) -> None:
        oldest = self._closed.popleft()
        self.first += 1
        self._records -= len(oldest.records)
        self._progress.forget(oldest.place.batch_id, len(oldest.records))
        for record, _ in oldest.records:
            self._forgotten[record.partition] = max(self._forgotten[record.partition], record.offset + 1)
            self._forgotten_reached[record.partition] = oldest.reached[record.partition]
        if oldest.place.batch_id is not None:
            self._forgotten_batch_id = oldest.place.batch_id

    def _start_over(self, generation: int) -> None:
        """The topic was replaced: its offsets count from 0 again."""
        while self._closed:
            self._forget_oldest()
        self._generation = generation
        self._progress.start_over()
        self._forgotten = list(self._progress.offsets)
        self._forgotten_reached = list(self._progress.reached)
        self._newest_in_partition.clear()
