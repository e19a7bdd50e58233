"""A micro-batch of events → one Kafka transaction on MAIN_TOPIC: a record per room and emoji, and the offsets so far.

The offsets, in the consumer group GROUP, are the only memory. A start goes on where the last committed transaction
ended. So a process that dies at any moment leaves nothing half done, and its Spark checkpoint can be thrown away.
`kafka-consumer-groups` shows the lag of this group like any other's.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from pyspark.sql import DataFrame

from emostream.aggregate.counting import (
    MAX_ROWS,
    CountedBatch,
    count_events,
    first_bad_offsets,
    first_rows,
    largest_of_each_room,
    summarize,
    totals,
)
from emostream.aggregate.query_metrics import QueryMetrics
from emostream.aggregate.spark import planned_offsets
from emostream.broker import (
    TRANSACTION_SECONDS,
    commit_transaction,
    consumer,
    is_fenced,
    transactional_producer,
)
from emostream.consumers import partitions, topic_id, where_to_go_on
from emostream.process import Log, StepTimeout, within
from emostream.records import encode, record_key
from emostream.settings import Settings

NAMED_ROOMS = 10  # in the metrics; made-up names must not fill a Prometheus
GROUP = "main-publisher"  # the transactional id, and the consumer group that the offsets are committed to


@dataclass(frozen=True)
class Positions:
    """Where to go on reading EMOJI_TOPIC: the next offset of each partition, and the number of the next batch."""

    next_offsets: Mapping[int, int]
    next_batch_id: int
    topic_id: str = ""


def read_positions(settings: Settings, log: Log) -> Positions:
    """Return the positions of the last committed transaction, or those of the oldest events if there is none.

    If the broker has deleted events before they were counted, they are lost. Then log a warning.
    """
    reader = consumer(settings, GROUP)
    try:
        ended_at: dict[TopicPartition, int | None] = {}
        next_batch_id = 0
        found = partitions(reader, settings.emoji_topic)
        found_id = topic_id(reader, settings.emoji_topic)
        for tp in found:
            committed = reader.committed(tp, metadata=True)
            # An operator who moves the offsets leaves no number there, or any text.
            last_batch_id, _, of_topic = (committed.metadata if committed else "").partition(" ")
            if last_batch_id.isdecimal():
                next_batch_id = max(next_batch_id, int(last_batch_id) + 1)
            # Spark may have read some events of a topic that was made anew before we noticed it.
            ended_at[tp] = committed.offset if committed and of_topic in ("", found_id) else None
        go_on = where_to_go_on(reader, ended_at, log)
        return Positions({tp.partition: offset for tp, offset in go_on.items()}, next_batch_id, found_id)
    finally:
        reader.close()


def partition_of(room: str, partitions: int) -> int | None:
    """Return which of so many partitions gets all counts of a named room. None for the default room: go by the key.

    So the counts of one emoji stay in order, and a subscriber with a thousand rooms reads each of them in one piece.
    """
    return zlib.crc32(room.encode()) % partitions if room else None


class BatchPublisher:
    """Publishes each micro-batch in one transaction: its counts and the offsets after it, all or nothing."""

    def __init__(self, settings: Settings, query_metrics: QueryMetrics, log: Log) -> None:
        self._settings = settings
        self._query_metrics = query_metrics
        self._metrics = query_metrics.metrics
        self._log = log
        self._producer: KafkaProducer = transactional_producer(settings, GROUP)
        self._next_batch_id = 0
        self._topic_id = ""
        self.fenced = False

    def close(self) -> None:
        """Close the connection. The next `start` aborts a transaction that is still open."""
        with contextlib.suppress(KafkaTimeoutError):  # do not wait for the records of an open transaction
            self._producer.close(timeout=0)

    def start(self) -> Positions:
        """Fence every older publisher, end its open transaction, and return the positions after it. Raises KafkaError.

        In this order: positions that are read first could be older than a transaction that commits a moment later.
        """
        within(TRANSACTION_SECONDS, "starting transactions", self._producer.init_transactions)
        positions = within(
            TRANSACTION_SECONDS, "reading the positions", lambda: read_positions(self._settings, self._log)
        )
        self._next_batch_id = positions.next_batch_id
        self._topic_id = positions.topic_id
        self._query_metrics.begin(positions.next_offsets, positions.topic_id)
        return positions

    def publish(self, events: DataFrame, spark_batch_id: int) -> None:
        """Count a micro-batch of read_events and commit it. Spark's foreachBatch calls this. Raises KafkaError.

        Spark numbers batches from its checkpoint, which is thrown away; ours go on after the last committed one.
        """
        started, settings = time.monotonic(), self._settings
        by_emoji = count_events(events, int(settings.max_taps_per_user or 0))
        rows, total = first_rows(by_emoji).collect(), None
        if not rows:
            return
        if len(rows) > MAX_ROWS:
            # These read the batch twice more. Only a flood of different names costs that.
            total = totals(by_emoji).collect()[0]
            limits = settings.max_rooms_per_batch, settings.max_emojis_per_batch
            rows = largest_of_each_room(by_emoji, *limits).collect()
        counted = time.monotonic()
        batch_id = self._next_batch_id
        batch = summarize(rows, total, batch_id, round(time.time() * 1000), settings)
        next_offsets = planned_offsets(settings, spark_batch_id)
        try:
            self._commit_in_time(batch_id, batch, next_offsets)
        except (KafkaError, StepTimeout) as error:
            self.fenced = is_fenced(self._producer, error)
            if self.fenced:
                raise
            # Try once more here, because a new query takes seconds to start. A second failure starts one.
            self._log.warning("the transaction failed; trying again", batch_id=batch_id, reason=error)
            self.close()
            self._producer = transactional_producer(settings, GROUP)
            # If the next batch is another one, the transaction was committed and only the answer was lost.
            if self.start().next_batch_id == batch_id:
                self._commit_in_time(batch_id, batch, next_offsets)
        self._next_batch_id = batch_id + 1
        committed = time.monotonic()
        if batch.bad_records:
            # This reads the batch a second time, too.
            offsets = {row["partition"]: row["offset"] for row in first_bad_offsets(events).collect()}
            self._log.warning(
                "skipped records that are not events", topic=settings.emoji_topic, records=batch.bad_records,
                first_offset_of_each_partition=json.dumps(offsets, sort_keys=True),
            )  # fmt: skip
        self._report(batch_id, batch, started, counted, committed)

    def _commit_in_time(self, batch_id: int, batch: CountedBatch, next_offsets: Mapping[int, int]) -> None:
        # If the coordinator of a transaction dies, kafka-python waits for ever. A commit that we stop waiting for does
        # no harm: the next producer fences this one before it reads the positions.
        producer = self._producer
        step = f"the transaction of batch {batch_id}"
        try:
            within(TRANSACTION_SECONDS, step, lambda: self._commit(producer, batch_id, batch, next_offsets))
        except (KafkaError, StepTimeout):
            self._metrics.add("transaction_aborts")
            raise

    def _commit(
        self, producer: KafkaProducer, batch_id: int, batch: CountedBatch, next_offsets: Mapping[int, int]
    ) -> None:
        settings = self._settings
        producer.begin_transaction()
        partitions = len(producer.partitions_for(settings.main_topic))
        sent = [
            producer.send(
                settings.main_topic, key=record_key(count.emoji, count.room), value=encode(count),
                partition=partition_of(count.room, partitions),
            )
            for count in batch.counts
        ]  # fmt: skip
        metadata = f"{batch_id} {self._topic_id}"
        offsets = {
            TopicPartition(settings.emoji_topic, partition): OffsetAndMetadata(offset, metadata, -1)
            for partition, offset in next_offsets.items()
        }
        producer.send_offsets_to_transaction(offsets, GROUP)
        commit_transaction(producer, sent)

    def _report(self, batch_id: int, batch: CountedBatch, started: float, counted: float, committed: float) -> None:
        """Add a published batch to the metrics and the log."""
        self._query_metrics.emojis = len(batch.counts) + batch.cut_emojis
        by_room = batch.by_room
        self._query_metrics.rooms = len(by_room) + batch.cut_rooms
        self._query_metrics.room_events = dict(by_room.most_common(NAMED_ROOMS))
        for name, number in {
            "batches": 1, "transactions": 1, "counts": len(batch.counts), "events": batch.events,
            "bad_records": batch.bad_records, "cut_rooms": batch.cut_rooms, "cut_emojis": batch.cut_emojis,
            "cut_events": batch.cut_events, "capped": batch.capped_events,
        }.items():  # fmt: skip
            self._metrics.add(name, number)
        for name, seconds in {
            "batch": committed - started, "count": counted - started, "publish": committed - counted,
        }.items():  # fmt: skip
            self._metrics.histograms[name].observe(seconds)
        if batch.cut_emojis:
            self._log.warning(
                "more emojis than MAX_EMOJIS_PER_BATCH or rooms than MAX_ROOMS_PER_BATCH; the rarest are not published",
                batch_id=batch_id, rooms=batch.cut_rooms, emojis=batch.cut_emojis, events=batch.cut_events,
            )  # fmt: skip
        if batch.capped_events:
            self._log.warning(
                "some users sent more than MAX_TAPS_PER_USER; these taps were not counted",
                batch_id=batch_id, taps=batch.capped_events,
            )  # fmt: skip
        self._log.info(
            "batch", batch_id=batch_id, events=batch.events, emojis=len(batch.counts),
            bad=batch.bad_records, count_seconds=counted - started, commit_seconds=committed - counted,
        )  # fmt: skip
