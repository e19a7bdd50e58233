"""A topic → its partitions as they are now, where they end, and a consumer that reads all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
)

from emostream.broker import consumer
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.settings import Settings

LAG_EVERY_SECONDS = 1.0
RETRY_SECONDS = 5.0
METADATA_TIMEOUT_MS = 3_000
METADATA_PAUSE_SECONDS = 0.1
POSITION_TIMEOUT_MS = 100
POSITIONS_TIMEOUT_MS = 5_000

Polled: TypeAlias = dict[TopicPartition, list[ConsumerRecord]]
UNREADABLE_ERRORS = (CorruptRecordError, UnsupportedCodecError)


def partitions(client: KafkaConsumer, *topics: str, timeout_ms: int = METADATA_TIMEOUT_MS) -> list[TopicPartition]:
    """Ask the broker which partitions these topics have now. Raises KafkaError, also if one of them is missing."""
    # The client's own method waits for the broker, without a limit, if a topic is missing.
    cluster, deadline = client._cluster, time.monotonic() + timeout_ms / 1000
    for topic in topics:
        cluster.add_topic(topic)
    while True:
        left_ms = max(0.0, (deadline - time.monotonic()) * 1000)
        # A new topic may not be known to every broker yet.
        with suppress(UnknownTopicOrPartitionError):
            client._net.run(client._manager.wait_for, cluster.request_update(), left_ms)
        missing = [topic for topic in topics if not cluster.partitions_for_topic(topic)]
        if not missing:
            return [tp for topic in topics for tp in known_partitions(client, topic)]
        if not left_ms:
            raise UnknownTopicOrPartitionError(", ".join(missing))
        time.sleep(METADATA_PAUSE_SECONDS)


def known_partitions(client: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return the partitions that a topic had METADATA_AGE_MS ago at most; none if it was missing then."""
    return [TopicPartition(topic, number) for number in sorted(client._cluster.partitions_for_topic(topic) or ())]


def topic_id(client: KafkaConsumer, topic: str) -> str:
    """Return what distinguishes a topic from a former one of the same name; empty if an old broker does not say."""
    found = client._cluster.topic_id(topic)
    return str(found) if found and found.int else ""


def where_to_go_on(
    client: KafkaConsumer, ended_at: Mapping[TopicPartition, int | None], log: Log
) -> dict[TopicPartition, int]:
    """Return the offset at which to go on in each partition, where reading ended at `ended_at`; None: it never began.

    If that is not the same offset, records were deleted before they were read, or the topic was made anew. Then log it.
    """
    oldest = client.beginning_offsets(list(ended_at), timeout_ms=POSITIONS_TIMEOUT_MS)
    newest = client.end_offsets(list(ended_at), timeout_ms=POSITIONS_TIMEOUT_MS)
    go_on = {tp: resume_at(offset, oldest[tp], newest[tp]) for tp, offset in ended_at.items()}
    for tp, offset in ended_at.items():
        if offset not in (None, go_on[tp]):
            log.warning(
                "cannot go on where reading ended; going on at the oldest record there is",
                topic=tp.topic, partition=tp.partition, ended_at=offset, oldest=oldest[tp], newest=newest[tp],
            )  # fmt: skip
    return go_on


def resume_at(ended_at: int | None, oldest: int, newest: int) -> int:
    """Return the offset at which reading ended, or the oldest one if there is no record at that one any more.

    Below the oldest offset, the broker has deleted records. Above the newest, somebody has replaced the topic.
    """
    return ended_at if ended_at is not None and oldest <= ended_at <= newest else oldest


class EndOffsets:
    """Where a topic ends. Any thread may ask; the connection is its own."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Connect to the broker. Raises KafkaError."""
        self.topic_id = ""  # of the last answer; another one if the topic was made anew
        self._topic = topic
        self._client: KafkaConsumer = consumer(settings, group_id=None)
        self._lock = threading.Lock()

    def now(self, timeout_ms: int) -> dict[int, int]:
        """Return the offset of the next record of each partition. Raises KafkaError."""
        with self._lock:
            found = partitions(self._client, self._topic, timeout_ms=timeout_ms)
            self.topic_id = topic_id(self._client, self._topic)
            return {tp.partition: end for tp, end in self._client.end_offsets(found, timeout_ms=timeout_ms).items()}


class AssignedConsumer:
    """A consumer of all partitions of a topic, for one thread. It knows its lag, and why it cannot read everything.

    It takes up the partitions that the topic gets meanwhile, and starts at the first record of each.
    A batch that cannot be decoded holds up its partition, not the others. It is tried again every RETRY_SECONDS.
    """

    def __init__(self, settings: Settings, topic: str, group_id: str | None, log: Log) -> None:
        """Connect to the broker. The caller seeks in all of `assigned` before it polls. Raises KafkaError."""
        self.lag: int | None = None  # how many records are still to be read; None while it is not known
        self.generation = 0  # of the topic; grows when it is made anew and offsets start over
        self._settings = settings
        self._topic = topic
        self._group_id = group_id
        self._log = log
        self._due = 0.0
        self._unreadable: dict[TopicPartition, tuple[int, str]] = {}  # the offset of the batch, and a sentence
        self._retry_at: dict[TopicPartition, float] = {}
        self._topic_id = ""
        self.client: KafkaConsumer = consumer(settings, group_id)
        try:
            self.assigned = partitions(self.client, topic)
        except KafkaError:
            self.close()  # or else each attempt leaves a thread and four open files behind
            raise
        self.client.assign(self.assigned)

    @property
    def trouble(self) -> str | None:
        """Why not every record of the topic is read; None if all are."""
        return next((sentence for _, sentence in self._unreadable.values()), None)

    def reads(self, tp: TopicPartition) -> bool:
        """Whether no batch holds up this partition."""
        return tp not in self._unreadable

    def poll(self, timeout_ms: int) -> Polled:
        """Return new records, waiting at most `timeout_ms` for the first. Raises KafkaError."""
        now = time.monotonic()
        for tp in [tp for tp, retry_at in self._retry_at.items() if retry_at <= now]:
            del self._retry_at[tp]
            self.client.resume(tp)
        polled: Polled = {}
        ended_at: dict[TopicPartition, int | None] = {}
        truncated = False
        try:
            polled = self.client.poll(timeout_ms=timeout_ms)
        except OffsetOutOfRangeError as error:
            ended_at = error.args[0]
        except LogTruncationError as error:
            ended_at = {tp: same and same.offset for tp, same in error.divergent_offsets.items()}
            truncated = True
        except Exception as error:  # a decoder may raise anything; what is not about a batch is raised again
            # kafka-python says nowhere else which batch it could not decode.
            batch = self.client._fetcher._next_partition_records
            if not batch or (isinstance(error, KafkaError) and not isinstance(error, UNREADABLE_ERRORS)):
                raise
            self._hold_up(batch.topic_partition, batch.next_fetch_offset, error)
        if ended_at:
            with suppress(KafkaError):
                partitions(self.client, self._topic)  # so that a topic that was made anew is known as such
        if self._made_anew():
            self._log.warning("the topic was made anew; reading it from its beginning", topic=self._topic)
            self.generation += 1
            self._retry_at.clear()
            self._unreadable.clear()
            # The old client would go on with what it knows of the old topic, such as where that ended.
            self._reconnect(known_partitions(self.client, self._topic))
            self.client.seek_to_beginning()
            polled = {}  # of the old topic, or read again
        elif ended_at:
            self._go_on(ended_at, truncated)
        else:
            self._take_up_new_partitions()
        if now >= self._due:
            self._due = now + LAG_EVERY_SECONDS
            self._update()
        return polled

    def go_on_where_committed(self) -> dict[TopicPartition, int]:
        """Go on where the group's committed offsets say, and return where that is. Raises KafkaError."""
        committed = {tp: self.client.committed(tp) for tp in self.assigned}
        go_on = where_to_go_on(self.client, committed, self._log)
        self._seek(go_on)
        return go_on

    def _go_on(self, ended_at: Mapping[TopicPartition, int | None], truncated: bool) -> None:
        """Go on in partitions that have no record where reading ended, or another one than they had."""
        go_on = where_to_go_on(self.client, ended_at, self._log)
        if truncated:
            for tp, offset in go_on.items():
                self._log.warning(
                    "the broker has lost records that were read; going on with those that it has written since",
                    topic=tp.topic, partition=tp.partition, offset=offset,
                )  # fmt: skip
        self.generation += truncated or any(offset < (ended_at[tp] or 0) for tp, offset in go_on.items())
        self._seek(go_on)

    def positions(self) -> dict[TopicPartition, int]:
        """Return the offset of the next record to read, of each partition where it is known."""
        found = {tp: self.client.position(tp, timeout_ms=POSITION_TIMEOUT_MS) for tp in self.assigned}
        return {tp: offset for tp, offset in found.items() if offset is not None}

    def _seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        for tp, offset in offsets.items():
            self.client.seek(tp, offset)

    def _take_up_new_partitions(self) -> None:
        found = known_partitions(self.client, self._topic)
        if len(found) > len(self.assigned):
            self._log.info(
                "the topic has more partitions; reading the new ones from their first record",
                topic=self._topic, before=len(self.assigned), now=len(found),
            )  # fmt: skip
            self.client.assign(found)
            self.client.seek_to_beginning(*set(found).difference(self.assigned))
            self.assigned = found

    def _reconnect(self, assigned: list[TopicPartition]) -> None:
        self.client.close(autocommit=False, timeout_ms=1_000)
        self.client = consumer(self._settings, self._group_id)
        self.client.assign(assigned)
        self.assigned = assigned

    def _made_anew(self) -> bool:
        # kafka-python compares leader epochs. Those of two topics of one name say nothing, and records would be lost.
        found = topic_id(self.client, self._topic)
        if found in ("", self._topic_id) or not known_partitions(self.client, self._topic):
            return False
        before, self._topic_id = self._topic_id, found
        return before != ""

    def _hold_up(self, held: TopicPartition, offset: int, error: Exception) -> None:
        # After such an error kafka-python turns in a circle for ever; only a new client goes on.
        positions = {tp: self.client.position(tp) for tp in self.assigned}
        self._reconnect(self.assigned)
        self._seek(positions)
        self._retry_at[held] = time.monotonic() + RETRY_SECONDS
        self.client.pause(*self._retry_at)
        sentence = (
            f"{held.topic}: partition {held.partition} cannot be read at offset {offset} ({error!r}); "
            f"kafka-delete-records with the offset after this batch skips it"
        )
        if self._unreadable.get(held) != (offset, sentence):
            self._log.error("a batch cannot be read; trying again and again", reason=sentence)
        self._unreadable[held] = offset, sentence

    def _update(self) -> None:
        for tp, (offset, _) in list(self._unreadable.items()):
            with suppress(KafkaError):
                if (self.client.position(tp, timeout_ms=POSITION_TIMEOUT_MS) or 0) > offset:
                    del self._unreadable[tp]
        self.lag = self._find_lag()

    def _find_lag(self) -> int | None:
        lag = 0
        for tp in self.assigned:
            try:
                position, end = self.client.position(tp, timeout_ms=POSITION_TIMEOUT_MS), self.client.highwater(tp)
            except KafkaError:
                return None
            if position is None or end is None:
                return None
            lag += max(0, end - position)
        return lag

    def close(self) -> None:
        """Close the connection."""
        self.client.close(autocommit=False, timeout_ms=1_000)


def skip_record(record: ConsumerRecord, reason: Exception, counters: Metrics, log: Log) -> None:
    """Count and log a record that is no count. The caller goes on with the next one."""
    counters.add("skipped")
    log.warning(
        "skipped a record that is no count", topic=record.topic,
        partition=record.partition, offset=record.offset, reason=reason,
    )  # fmt: skip
