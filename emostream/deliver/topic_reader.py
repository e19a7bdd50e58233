"""One cluster's topic → the rooms, which keep the last MAX_AGE_SECONDS of it."""

from __future__ import annotations

import time

from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from emostream.consumers import AssignedConsumer, EndOffsets
from emostream.deliver.rooms import Rooms, batch_id_of
from emostream.metrics.counters import Metrics
from emostream.process import Log, StopFlag
from emostream.settings import Settings

POLL_MS = 500
ENDS_TIMEOUT_MS = 5_000
CATCH_UP_SECONDS = 30
# One record and the marker that ends its transaction.
BEFORE_THE_HISTORY = 2


class TopicReader:
    """The consumer of a cluster topic. The keys of all dictionaries are partitions."""

    def __init__(self, settings: Settings, cluster_topic: str, rooms: Rooms, counters: Metrics, log: Log) -> None:
        """Connects to the broker. Raises KafkaError."""
        self.generation = 0  # grows when the topic is replaced
        self.next_offsets: dict[int, int] = {}  # the offset after the last record that was read
        self.starts: dict[int, int] = {}  # the first offset in the history; records before it are too old
        self._forgotten: dict[int, int] = {}  # the offset after the last record before `starts`, if there is one
        self._forgotten_batch_ids: dict[int, int] = {}  # the micro-batch of that record
        self._topic = cluster_topic
        self._max_age_seconds = settings.max_age_seconds
        self._rooms = rooms
        self._counters = counters
        self.consumer = AssignedConsumer(settings, cluster_topic, None, log)
        # A second connection for `ends`, because the consumer belongs to the thread that polls it.
        self._ends = EndOffsets(settings, cluster_topic)

    def catch_up(self, stop: StopFlag) -> None:
        """Read the topic from the start of the history to its end. Raises KafkaError, also if `stop` is requested."""
        assigned, client = self.consumer.assigned, self.consumer.client
        ends = client.end_offsets(assigned)
        beginnings = client.beginning_offsets(assigned)
        oldest_ms = round((time.time() - self._max_age_seconds) * 1000)
        found = client.offsets_for_times(dict.fromkeys(assigned, oldest_ms))
        self.starts = {tp.partition: found[tp].offset if found.get(tp) else ends[tp] for tp in assigned}
        for tp in assigned:
            # Begin a little earlier. The records there show whether a stream that resumes has missed anything.
            self.next_offsets[tp.partition] = max(beginnings[tp], self.starts[tp.partition] - BEFORE_THE_HISTORY)
            client.seek(tp, self.next_offsets[tp.partition])
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while any(
            self.consumer.client.position(tp, timeout_ms=CATCH_UP_SECONDS * 1000) < end
            for tp, end in ends.items() if self.consumer.reads(tp)
        ):  # fmt: skip
            self.run_once()
            if stop.requested or time.monotonic() > deadline:
                raise KafkaError(f"{self._topic} was not read to its end in {CATCH_UP_SECONDS} s")
        self.next_offsets = {p: max(offset, self.starts.get(p, 0)) for p, offset in self.next_offsets.items()}
        self._rooms.begin(self.starts | self._forgotten, self._forgotten_batch_ids)

    def run_once(self, poll_ms: int = POLL_MS) -> int:
        """Wait up to `poll_ms` for new records and add them to their rooms. Return how many were read."""
        polled = self.consumer.poll(poll_ms)
        if self.generation != self.consumer.generation:
            self.generation = self.consumer.generation
            self.starts, self.next_offsets = {}, {}
            self._rooms.start_over(self.generation, (tp.partition for tp in self.consumer.assigned))
        records: list[ConsumerRecord] = []
        for tp, consumed in polled.items():
            self.next_offsets[tp.partition] = consumed[-1].offset + 1
            start = self.starts.get(tp.partition, 0)
            records += consumed if consumed[0].offset >= start else self._without_those_before(start, consumed)
        self._counters.add("consumed", self._rooms.append(records, caught_up=self.consumer.lag == 0))
        return sum(map(len, polled.values()))

    def ends(self) -> dict[int, int]:
        """The offset that the next record in each partition will get; from any thread. Raises KafkaError."""
        return self._ends.now(ENDS_TIMEOUT_MS)

    def close(self) -> None:
        """Leave the broker."""
        self.consumer.close()

    def _without_those_before(self, start: int, consumed: list[ConsumerRecord]) -> list[ConsumerRecord]:
        """Remember what those records show that are before the history."""
        for record in consumed:
            if record.offset < start:
                self._forgotten[record.partition] = record.offset + 1
                batch_id = batch_id_of(record)
                if batch_id is not None:
                    self._forgotten_batch_ids[record.partition] = batch_id
        return [record for record in consumed if record.offset >= start]
