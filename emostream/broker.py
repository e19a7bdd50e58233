"""Settings → Kafka's clients, but for the producer that taps go through: that is in bounded_producer.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TypeAlias

from confluent_kafka import Consumer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import InvalidProducerEpochError, KafkaConnectionError, KafkaError, ProducerFencedError
from kafka.net.compat import KafkaNetClient
from kafka.producer.future import FutureRecordMetadata

from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.settings import Settings

PARTITIONS = 3
LOOK_SECONDS = 1.0
LOOK_TIMEOUT_MS = 100
TRANSACTION_TIMEOUT_MS = 10_000
# kafka-python gives up on a record after two minutes; an accepted one waits as long as there is room.
NEVER_EXPIRES_MS = 2**31 - 1


# What a transactional producer gets when a newer one of the same id has begun.
FENCED = (ProducerFencedError, InvalidProducerEpochError)


def is_fenced(producer: KafkaProducer, error: BaseException) -> bool:
    """Whether a transactional producer failed because a newer one of the same id has begun."""
    # Only the call that is under way gets the error by its name; a later one gets a plain KafkaError.
    return isinstance(error, FENCED) or isinstance(producer._transaction_manager.last_error, FENCED)


Sent: TypeAlias = FutureRecordMetadata  # what a record comes to after it was given to a producer


def commit(producer: KafkaProducer, sent: Iterable[Sent]) -> None:
    """Commit a transaction that holds the records `sent`. Raises KafkaError, also where kafka-python would not.

    After some errors its commit returns as if all were well though the transaction was given up.
    """
    producer.commit_transaction()
    for record in sent:
        record.get(timeout=0)


def _common(settings: Settings) -> dict[str, object]:
    return {
        "bootstrap_servers": settings.bootstrap_servers,
        # Back within a second of the broker; the default lets the pause grow to 30 s.
        "reconnect_backoff_max_ms": 1_000,
    }


def _producing(settings: Settings) -> dict[str, object]:
    # Idempotence and acks=all are the defaults, but unless named another setting switches them off silently.
    return _common(settings) | {
        "metrics_enabled": False,
        "enable_idempotence": True,
        "acks": "all",
        "compression_type": "lz4",
    }


class _TransactionalClient(KafkaNetClient):  # type: ignore[misc]
    """The connections of a transactional producer.

    Where a coordinator has died, kafka-python 3.0.12 drops the request that was for it, and waits for ever: its sender
    takes "not ready" for a reason to ask who the new one is and try again, but gets an exception instead.
    """

    def await_ready(self, node_id: int | str, timeout_ms: float = 30_000) -> bool:
        """Whether a node can be sent to, after at most `timeout_ms`."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except KafkaConnectionError:
            return False


def transactional_producer(settings: Settings, transactional_id: str) -> KafkaProducer:
    """A producer for transactions; `init_transactions` fences any older one of the same id."""
    return KafkaProducer(
        **_producing(settings),
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        linger_ms=0,
        kafka_client=_TransactionalClient,
        # Waits between the steps of a transaction; the default of 100 ms makes one take 220 ms instead of 40.
        retry_backoff_ms=5,
    )


def registry_producer(settings: Settings) -> KafkaProducer:
    """A producer for the few records of the subscribers' registry."""
    return KafkaProducer(
        **_producing(settings),
        request_timeout_ms=4_000,
        max_block_ms=5_000,
        # A record that expires leaves kafka-python without a producer id, and the producer sends nothing any more.
        delivery_timeout_ms=NEVER_EXPIRES_MS,
    )


def admin_client(settings: Settings, brokers: list[str] | None = None) -> KafkaAdminClient:
    """Whoever creates and lists topics; of these `brokers` only, where some are named. Raises RetriableError."""
    where = {"bootstrap_servers": brokers} if brokers else {}
    return KafkaAdminClient(**_common(settings) | where, bootstrap_timeout_ms=1_000)


def consumer(settings: Settings, group_id: str | None) -> KafkaConsumer:
    """A consumer of committed records that is assigned its partitions by hand.

    Not subscribed as a group member: after a kill -9 the successor of a member waits for its session to time out.
    """
    return KafkaConsumer(
        **_common(settings),
        metrics_enabled=False,
        group_id=group_id,
        enable_auto_commit=False,
        isolation_level="read_committed",
        # Where a topic was replaced its records start over, and all of them are new.
        auto_offset_reset="earliest",
        max_poll_records=2_000,
    )


def bulk_consumer(settings: Settings) -> Consumer:
    """A consumer of committed records for whoever reads many at once and then closes it; assigned by hand.

    On librdkafka, which takes them apart outside of Python: in the app others wait for this process meanwhile.
    """
    return Consumer(
        {
            "bootstrap.servers": ",".join(settings.bootstrap_servers),
            "group.id": "emostream-reader",  # wanted, though none is joined and nothing is committed
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            # Else the end of a partition is told only after a long poll.
            "fetch.wait.max.ms": 10,
            "queued.max.messages.kbytes": 8_192,
            "log_level": 0,
            "error_cb": lambda _error: None,
        }
    )


class Ends:
    """Where a topic ends, for any thread; by a connection of its own."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Connects to the broker. Raises KafkaError."""
        self._partitions = partitions(topic)
        self._reader: KafkaConsumer = consumer(settings, group_id=None)
        self._lock = threading.Lock()

    def now(self, timeout_ms: int) -> dict[int, int]:
        """Per partition, the offset of the next record to be published. Raises KafkaError."""
        with self._lock:
            ends = self._reader.end_offsets(self._partitions, timeout_ms=timeout_ms)
        return {tp.partition: end for tp, end in ends.items()}


class Lag:
    """How many records lie between an assigned consumer and the end of its topics, as it last heard of that."""

    def __init__(self, reader: KafkaConsumer) -> None:
        self._reader = reader
        self._due = 0.0
        self.records: int | None = None  # None while it has not heard of it

    def look(self) -> None:
        """Look, if that is a while ago; in the thread that polls."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LOOK_SECONDS
        self.records = self._lag()

    def _lag(self) -> int | None:
        total = 0
        for tp in self._reader.assignment():
            end = self._reader.highwater(tp)
            try:
                position = self._reader.position(tp, timeout_ms=LOOK_TIMEOUT_MS)
            except KafkaError:
                return None
            if end is None or position is None:
                return None
            total += max(0, end - position)
        return total


def skip(record: ConsumerRecord, reason: Exception, counters: Metrics, log: Log) -> None:
    """Count and name a record that is no count, for `reason`; whoever reads it goes on with the next one."""
    counters.add("skipped")
    log.warning(
        "skipped a record that is no count", topic=record.topic,
        partition=record.partition, offset=record.offset, reason=reason,
    )  # fmt: skip


def partitions(topic: str) -> list[TopicPartition]:
    """All partitions of a topic of ours."""
    return [TopicPartition(topic, number) for number in range(PARTITIONS)]
