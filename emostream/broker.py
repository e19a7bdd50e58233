"""Settings → Kafka clients, and what their transactions need.

The producer that taps go through is not here: ingest/producer.py builds it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from confluent_kafka import Consumer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaConnectionError,
    ProducerFencedError,
)
from kafka.net.compat import KafkaNetClient
from kafka.producer.future import FutureRecordMetadata

from emostream.kafka_security import kafka_python_options, librdkafka_options
from emostream.settings import Settings

METADATA_AGE_MS = 2_000  # so that new partitions are read and written within 5 s
TRANSACTION_TIMEOUT_MS = 10_000
# A step of a transaction takes 10 to 50 ms, or as long as three brokers need to notice that one has died.
TRANSACTION_SECONDS = 6.0
LONGEST_TIMEOUT_MS = 2**31 - 1
CONNECT_SECONDS = 1.0

SentRecord: TypeAlias = FutureRecordMetadata  # what KafkaProducer.send returns
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


def reachable(servers: Sequence[str]) -> list[str]:
    """Return those of several brokers that take a connection. Raises KafkaConnectionError if none does.

    kafka-python begins with any one of them, and waits for that one until its time is over. If its host is gone without
    a word, no other is tried.
    """
    if len(servers) == 1:
        return list(servers)  # kafka-python finds out by itself
    with ThreadPoolExecutor(len(servers)) as executor:
        errors = dict(zip(servers, executor.map(_connection_error, servers), strict=True))
    if all(errors.values()):
        raise KafkaConnectionError("; ".join(f"{server}: {error}" for server, error in errors.items()))
    return [server for server, error in errors.items() if error is None]


def _connection_error(server: str) -> OSError | None:
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return error
    return None


def _client_options(settings: Settings, brokers: Sequence[str] | None = None) -> dict[str, object]:
    return {
        **kafka_python_options(settings),
        "bootstrap_servers": reachable(brokers or settings.bootstrap_servers),
        # Reconnect within a second after the broker is back. By default the pause grows to 30 s.
        "reconnect_backoff_max_ms": 1_000,
        "metadata_max_age_ms": METADATA_AGE_MS,
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
    return KafkaAdminClient(**_client_options(settings, brokers), bootstrap_timeout_ms=1_000)


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
        # Reading never goes on somewhere else without a word: `where_to_go_on` says where, and logs it.
        auto_offset_reset="none",
        # As many as a micro-batch of a thousand rooms may have. While some of a fetch are left, kafka-python asks for
        # the other partitions alone and waits for fetch_max_wait_ms, 0.5 s, before it asks for this one again.
        max_poll_records=30_000,
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
