"""One cluster's topic → the history of its last MAX_AGE_SECONDS. Each record is decoded here, and only here."""

from __future__ import annotations

import time

from kafka.errors import KafkaError

from emostream.consumers import AssignedConsumer, EndOffsets, skip_record
from emostream.deliver.history import History, Record
from emostream.metrics.counters import Metrics
from emostream.process import Log, StopFlag
from emostream.records import InvalidRecord, parse_count
from emostream.settings import Settings

POLL_MS = 500
ENDS_TIMEOUT_MS = 5_000
CATCH_UP_SECONDS = 30
# One record and the marker that ends its transaction.
BEFORE_THE_HISTORY = 2


class TopicReader:
    """The consumer of a cluster topic. The keys of all dictionaries are partitions."""

    def __init__(self, settings: Settings, cluster_topic: str, history: History, counters: Metrics, log: Log) -> None:
        """Connects to the broker. Raises KafkaError."""
        self.generation = 0  # grows when the topic is replaced
        self.next_offsets: dict[int, int] = {}  # the offset after the last record that was read
        self.starts: dict[int, int] = {}  # the first offset in the history; records before it are too old
        self.forgotten: dict[int, int] = {}  # the offset after the last record before `starts`, if there is one
        self.forgotten_batch_ids: dict[int, int] = {}  # the micro-batch of that record
        self._topic = cluster_topic
        self._max_age_seconds = settings.max_age_seconds
        self._history = history
        self._counters = counters
        self._log = log
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

    def run_once(self, poll_ms: int = POLL_MS) -> int:
        """Wait up to `poll_ms` for new records and add them to the history. Return how many were read."""
        records = []
        polled = self.consumer.poll(poll_ms)
        if self.generation != self.consumer.generation:
            self.generation = self.consumer.generation
            self.starts, self.next_offsets = {}, {}
        for tp, consumed in polled.items():
            self.next_offsets[tp.partition] = consumed[-1].offset + 1
            for record in consumed:
                try:
                    count = parse_count(record.value)
                except InvalidRecord as error:
                    skip_record(record, error, self._counters, self._log)
                    continue
                where = record.partition, record.offset, record.timestamp
                if record.offset < self.starts.get(record.partition, 0):
                    self._remember_before(record.partition, record.offset, count.batch_id)
                else:
                    records.append(Record(*where, record.value, count, self.generation))
        self._history.append(records, now_ms=time.time() * 1000)
        self._counters.add("consumed", len(records))
        return sum(map(len, polled.values()))

    def ends(self) -> dict[int, int]:
        """The offset that the next record in each partition will get; from any thread. Raises KafkaError."""
        return self._ends.now(ENDS_TIMEOUT_MS)

    def close(self) -> None:
        """Leave the broker."""
        self.consumer.close()

    def _remember_before(self, partition: int, offset: int, batch_id: int | None) -> None:
        self.forgotten[partition] = offset + 1
        if batch_id is not None:
            self.forgotten_batch_ids[partition] = batch_id
