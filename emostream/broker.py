"""Settings → Kafka clients, and the few things that a client cannot do by itself.

The producer that taps go through is not here: ingest/producer.py builds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeAlias
from uuid import UUID

from confluent_kafka import Consumer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    CorruptRecordError,
    InvalidProducerEpochError,
    KafkaConnectionError,
    KafkaError,
    ProducerFencedError,
    UnsupportedCodecError,
)
from kafka.net.compat import KafkaNetClient
from kafka.producer.future import FutureRecordMetadata

from emostream.kafka_security import kafka_python_options, librdkafka_options
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.settings import Settings

PARTITIONS = 3
LAG_EVERY_SECONDS = 1.0
RETRY_SECONDS = 5.0
METADATA_AGE_MS = 5_000  # so that a change of a topic's partitions is noticed within 10 s
POSITION_TIMEOUT_MS = 100
TRANSACTION_TIMEOUT_MS = 10_000
# A step of a transaction takes 10 to 50 ms, or as long as three brokers need to notice that one has died.
TRANSACTION_SECONDS = 6.0
LONGEST_TIMEOUT_MS = 2**31 - 1

SentRecord: TypeAlias = FutureRecordMetadata  # what KafkaProducer.send returns
Polled: TypeAlias = dict[TopicPartition, list[ConsumerRecord]]
UNREADABLE_ERRORS = (CorruptRecordError, UnsupportedCodecError)
FENCED_ERRORS = (ProducerFencedError, InvalidProducerEpochError)


def is_fenced(producer: KafkaProducer, error: BaseException) -> bool:
    """Whether a transactional producer failed because a newer one has taken over its transactional id."""
    # Only the call that is fenced raises one of these errors; every later call raises a plain KafkaError.
    # kafka-python keeps the first error in this private attribute and shows it nowhere else.
    return isinstance(error, FENCED_ERRORS) or isinstance(producer._transaction_manager.last_error, FENCED_ERRORS)


def commit_transaction(producer: KafkaProducer, sent: Iterable[SentRecord]) -> None:
    """Commit the open transaction, which holds the records `sent`. Raises KafkaError if it is not committed.

    kafka-python can return from its commit though it has given the transaction up. Then the records have failed.
    """
    producer.commit_transaction()
    for record in sent:
        record.get(timeout=0)


def _client_options(settings: Settings) -> dict[str, object]:
    return {
        **kafka_python_options(settings),
        # Reconnect within a second after the broker is back. By default the pause grows to 30 s.
        "reconnect_backoff_max_ms": 1_000,
    }


def _producer_options(settings: Settings) -> dict[str, object]:
    return _client_options(settings) | {
        "metrics_enabled": False,
        # Both are the defaults. They are named because kafka-python then refuses options that contradict them;
        # otherwise it switches idempotence off without a word.
        "enable_idempotence": True,
        "acks": "all",
        "compression_type": "lz4",
    }


class _TransactionalClient(KafkaNetClient):  # type: ignore[misc]
    """The connections of a transactional producer. They make it survive the death of a transaction coordinator.

    If the coordinator is not ready, kafka-python's sender means to find the new one and try again. But in 3.0.12
    `await_ready` raises instead of returning False; the sender then drops its request and waits for ever.
    """

    def await_ready(self, node_id: int | str, timeout_ms: float = 30_000) -> bool:
        """Return whether a node is ready, after at most `timeout_ms`."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except KafkaConnectionError:
            return False


def transactional_producer(settings: Settings, transactional_id: str) -> KafkaProducer:
    """Return a producer of transactions. Its `init_transactions` fences every older producer of the same id."""
    return KafkaProducer(
        **_producer_options(settings),
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        linger_ms=0,
        kafka_client=_TransactionalClient,
        # kafka-python waits this long between the steps of a transaction. With the default of 100 ms a transaction
        # takes 220 ms instead of 40.
        retry_backoff_ms=5,
    )


def registry_producer(settings: Settings) -> KafkaProducer:
    """Return a producer for the few records of the subscribers' registry."""
    return KafkaProducer(
        **_producer_options(settings),
        request_timeout_ms=4_000,
        max_block_ms=5_000,
        # Never let a record expire: kafka-python then loses its producer id and sends nothing any more.
        delivery_timeout_ms=LONGEST_TIMEOUT_MS,
    )


def admin_client(settings: Settings, brokers: list[str] | None = None) -> KafkaAdminClient:
    """Return a client that creates and lists topics. Raises RetriableError.

    It connects to `brokers`, or to all bootstrap servers if there are none given.
    """
    servers = {"bootstrap_servers": brokers} if brokers else {}
    return KafkaAdminClient(**_client_options(settings) | servers, bootstrap_timeout_ms=1_000)


def consumer(settings: Settings, group_id: str | None) -> KafkaConsumer:
    """Return a consumer of committed records; the caller assigns its partitions.

    It does not join its group: after a kill -9 the next member would have to wait until the dead one's session ends.
    """
    return KafkaConsumer(
        **_client_options(settings),
        metrics_enabled=False,
        group_id=group_id,
        enable_auto_commit=False,
        isolation_level="read_committed",
        # The offsets of a replaced topic begin anew, and all its records are new.
        auto_offset_reset="earliest",
        max_poll_records=2_000,
        metadata_max_age_ms=METADATA_AGE_MS,
    )


def bulk_consumer(settings: Settings) -> Consumer:
    """Return a consumer of committed records that reads many at once; the caller assigns its partitions and closes it.

    It is librdkafka's, which decodes records outside of Python. The app, which uses it, has other requests to answer.
    """
    return Consumer(
        {
            **librdkafka_options(settings),
            "group.id": "emostream-reader",  # librdkafka requires one, but we neither join it nor commit to it
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            # Otherwise we learn of the end of a partition only after a long poll.
            "fetch.wait.max.ms": 10,
            "queued.max.messages.kbytes": 8_192,
            "log_level": 0,
            "error_cb": lambda _error: None,
        }
    )


class EndOffsets:
    """Where a topic ends. Any thread may ask; the connection is its own."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Connect to the broker. Raises KafkaError."""
        self._topic = topic
        self._client: KafkaConsumer = consumer(settings, group_id=None)
        self._client.assign(partitions(topic))  # so that the client asks for the topic's partitions again and again
        self._lock = threading.Lock()

    def now(self, timeout_ms: int) -> dict[int, int]:
        """Return the offset of the next record of each partition. Raises KafkaError."""
        with self._lock:
            ends = self._client.end_offsets(partitions(self._topic), timeout_ms=timeout_ms)
        return {tp.partition: end for tp, end in ends.items()}

    def unread_partitions(self) -> str | None:
        """Return a sentence if the topic has other partitions than those that are read, otherwise None."""
        with self._lock:
            return unread_partitions(self._client, self._topic)

class AssignedConsumer:
    """A consumer of all partitions of a topic, for one thread. It knows its lag, and why it cannot read everything.

    A batch that cannot be decoded holds up its partition, not the others. It is tried again every RETRY_SECONDS.
    """

    def __init__(self, settings: Settings, topic: str, group_id: str | None, log: Log) -> None:
        """Connect to the broker. Raises KafkaError."""
        self.lag: int | None = None  # how many records are still to be read; None while it is not known
        self._settings = settings
        self._topic = topic
        self._group_id = group_id
        self._log = log
        self._due = 0.0
        self._unread_partitions: str | None = None
        self._unreadable: dict[TopicPartition, tuple[int, str]] = {}  # the offset of the batch, and a sentence
        self._retry_at: dict[TopicPartition, float] = {}
        self._topic_id: UUID | None = None
        self.client = self._connect()

    def _connect(self) -> KafkaConsumer:
        client = consumer(self._settings, self._group_id)
        client.assign(partitions(self._topic))
        return client

    @property
    def trouble(self) -> str | None:
        """Why not every record of the topic is read; None if all are."""
        return next((sentence for _, sentence in self._unreadable.values()), self._unread_partitions)

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
        try:
            polled = self.client.poll(timeout_ms=timeout_ms)
        except Exception as error:  # a decoder may raise anything; what is not about a batch is raised again
            # kafka-python says nowhere else which batch it could not decode.
            batch = self.client._fetcher._next_partition_records
            if not batch or (isinstance(error, KafkaError) and not isinstance(error, UNREADABLE_ERRORS)):
                raise
            self._hold_up(batch.topic_partition, batch.next_fetch_offset, error)
        if self._made_anew():
            self._log.warning("the topic was made anew; reading it from its beginning", topic=self._topic)
            self._unreadable.clear()
            self.client.seek_to_beginning()
            polled = {}  # of the old topic, or read again
        if now >= self._due:
            self._due = now + LAG_EVERY_SECONDS
            self._update()
        return polled

    def _made_anew(self) -> bool:
        # kafka-python compares leader epochs. Those of two topics of one name say nothing, and records would be lost.
        topic_id = self.client._cluster.topic_id(self._topic)
        if not topic_id or not topic_id.int or topic_id == self._topic_id:
            return False
        before, self._topic_id = self._topic_id, topic_id
        return before is not None

    def _hold_up(self, held: TopicPartition, offset: int, error: Exception) -> None:
        # After such an error kafka-python turns in a circle for ever; only a new client goes on.
        positions = {tp: self.client.position(tp) for tp in partitions(self._topic)}
        self.client.close(autocommit=False, timeout_ms=1_000)
        self.client = self._connect()
        for tp, position in positions.items():
            self.client.seek(tp, position)
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
        self._unread_partitions = unread_partitions(self.client, self._topic)
        for tp, (offset, _) in list(self._unreadable.items()):
            with suppress(KafkaError):
                if (self.client.position(tp, timeout_ms=POSITION_TIMEOUT_MS) or 0) > offset:
                    del self._unreadable[tp]
        self.lag = self._find_lag()

    def _find_lag(self) -> int | None:
        lag = 0
        for tp in partitions(self._topic):
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


def partitions(topic: str) -> list[TopicPartition]:
    """Return all partitions of one of our topics."""
    return [TopicPartition(topic, number) for number in range(PARTITIONS)]


def unread_partitions(client: KafkaConsumer, topic: str) -> str | None:
    """Return a sentence if a topic has other partitions than those that are read, otherwise None."""
    # The client's own method waits for the broker, without a limit, if the topic is missing.
    found = client._cluster.partitions_for_topic(topic)
    if not found or len(found) == PARTITIONS:
        return None
    return f"{topic}: expected {PARTITIONS} partitions, found {len(found)}; only {PARTITIONS} partitions are read"
