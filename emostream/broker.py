"""Settings → Kafka producers and consumers, and the topics. The only builder of Kafka client objects.

As a command, `python -m emostream.broker replace [KEY=VALUE ...]` creates every topic, replacing those that are there.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TypeAlias

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    InvalidProducerEpochError,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    ProducerFencedError,
    RetriableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.net.compat import KafkaNetClient
from kafka.producer.future import FutureRecordMetadata

from emostream.meters import Metrics
from emostream.runtime import Log, StopFlag, run_script, stop_on_signals
from emostream.settings import REGISTRY_TOPIC, Settings

PARTITIONS = 3
REMINDER_SECONDS = 5.0
FULL_BATCH_EVENTS = 20_000  # so many do not wait for the linger any more
STICKY_MS = 10
POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0
LOOK_TIMEOUT_MS = 100
TRANSACTION_TIMEOUT_MS = 10_000
# Small segments, because the newest one is never compacted.
COMPACTED = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.2"}
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


class BufferFull(Exception):
    """The producer holds as many records as it may, or the broker never told it of the topic."""


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


class Receipt:
    """What tells that the broker has every record that was sent with it."""

    def __init__(self) -> None:
        self._done: Future[None] = Future()
        # Whoever stops waiting cancels what it waits for, and the records come all the same: this cannot be cancelled,
        # or the thread that tells of them would end with an error.
        self._done.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._missing = 1

    def closed(self) -> Future[None]:
        """No more records follow; the future is done when the broker has all."""
        self.add(-1)
        return self._done

    def add(self, records: int) -> None:
        """So many records more (or fewer) are missing."""
        with self._lock:
            self._missing += records
            complete = self._missing == 0
        if complete:
            self._done.set_result(None)


class _BrokerState(msgspec.Struct):
    state: str


class _Statistics(msgspec.Struct):
    """What we read of librdkafka's statistics."""

    brokers: dict[str, _BrokerState]


_statistics_decoder = msgspec.json.Decoder(_Statistics)


class BoundedProducer:
    """A producer that lingers and holds at most MAX_BUFFERED_EVENTS records that the broker has not taken yet.

    On librdkafka, because a tap pays for each record: 2 µs instead of kafka-python's 40. Records never expire.
    """

    def __init__(self, settings: Settings, topic: str, linger_ms: int, receipts: bool, log: Log) -> None:
        """Must be made in the process that uses it: its threads do not survive a fork.

        `receipts` says whether records are sent with one; without, only losses are reported, which costs less.
        """
        self._topic = topic
        self._max_buffered = settings.max_buffered_events
        self._log = log
        self._lock = threading.Lock()
        self._accepted = 0
        self._lost = 0
        self._ended = False
        self._report = partial(self._on_delivery, None)
        self.connected = True  # to at least one broker; who makes a producer has waited for that
        self._producer = Producer(
            {
                "bootstrap.servers": ",".join(settings.bootstrap_servers),
                "reconnect.backoff.max.ms": 1_000,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": linger_ms,
                # The default, twice the linger, would give all of a micro-batch to one of Spark's readers.
                "sticky.partitioning.linger.ms": STICKY_MS,
                # With so many for one partition a batch leaves at once: FULL_BATCH_EVENTS cannot wait on all together.
                "batch.num.messages": FULL_BATCH_EVENTS // PARTITIONS,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": self._max_buffered,
                "delivery.report.only.error": not receipts,
                "statistics.interval.ms": 1_000,
                "stats_cb": self._on_statistics,
                # What matters of errors comes back with the records, and of connections with the statistics.
                "log_level": 0,
                "error_cb": lambda _error: None,
            }
        )
        self._poller = threading.Thread(target=self._poll, name="poll", daemon=True)
        self._poller.start()

    def send(self, value: bytes, receipt: Receipt | None = None) -> None:
        """Accept a record; it goes out within the linger. Raises BufferFull, and then has not accepted it."""
        if receipt:
            receipt.add(1)
        with self._lock:
            self._accepted += 1
        try:
            report = partial(self._on_delivery, receipt) if receipt else self._report
            self._producer.produce(self._topic, value, on_delivery=report)
        except (BufferError, KafkaException) as error:
            with self._lock:
                self._accepted -= 1
            if receipt:
                receipt.add(-1)
            if isinstance(error, BufferError):
                raise BufferFull(f"{self._max_buffered} events are waiting for the broker already") from None
            raise BufferFull(f"the broker does not take records for topic {self._topic} ({error})") from error

    def flush(self, timeout_seconds: float) -> None:
        """Send what has been accepted now, however much of its linger is left; what is new meanwhile, at once."""
        self._producer.flush(timeout_seconds)

    @property
    def running(self) -> bool:
        """Whether the thread is there that is told what became of records."""
        return self._poller.is_alive()

    @property
    def buffered(self) -> int:
        """Records accepted and neither acknowledged nor lost."""
        return len(self._producer)

    def counts(self) -> dict[str, int]:
        """Records so far by fate."""
        acknowledged = max(0, self._accepted - self._lost - self.buffered)
        return {"accepted": self._accepted, "acknowledged": acknowledged, "lost": self._lost}

    def drain(self, timeout_seconds: float) -> int:
        """Send what was accepted, and end; returns how many records were given up after `timeout_seconds`."""
        self.flush(timeout_seconds)
        given_up = self.buffered
        if given_up:
            self._log.error(
                "the broker did not take these events in time; they are lost",
                topic=self._topic, events=given_up, drain_seconds=timeout_seconds,
            )  # fmt: skip
        self._ended = True
        self._poller.join()
        return given_up

    def _poll(self) -> None:
        while not self._ended:
            self._producer.poll(POLL_SECONDS)

    def _on_delivery(self, receipt: Receipt | None, error: KafkaError | None, _record: object) -> None:
        if error is None:
            if receipt:
                receipt.add(-1)
            return
        with self._lock:
            self._lost += 1
        if self._lost & (self._lost - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...: a flood stays readable
            self._log.error("the broker refused events; they are lost", topic=self._topic, lost=self._lost, error=error)

    def _on_statistics(self, statistics: str) -> None:
        brokers = _statistics_decoder.decode(statistics).brokers.values()
        self.connected = any(broker.state == "UP" for broker in brokers)


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


def wait_for_topics(settings: Settings, topics: Iterable[str], stop: StopFlag, log: Log) -> bool:
    """Return True when the broker answers and has all `topics`, False when a stop was requested first.

    Says every few seconds what it is waiting for.
    """
    wanted = set(topics)

    def missing() -> str | None:
        absent = wanted - set(_list_topics(settings))
        return f"missing topics {', '.join(sorted(absent))}; ./topic.sh creates them" if absent else None

    return _wait(missing, settings, stop, log)


def wait_for_broker(settings: Settings, stop: StopFlag, log: Log) -> bool:
    """Like wait_for_topics, for no topic in particular."""
    return wait_for_topics(settings, (), stop, log)


def _wait(missing: Callable[[], str | None], settings: Settings, stop: StopFlag, log: Log) -> bool:
    began = time.monotonic()
    remind_at = began + 1.0  # what is there within a second is not worth a line
    while not stop.requested:
        try:
            what = missing()
        except RetriableError as error:
            what = f"no broker at {', '.join(settings.bootstrap_servers)} ({error}); ./start.sh kafka starts one"
        if what is None:
            return True
        if time.monotonic() >= remind_at:
            remind_at = time.monotonic() + REMINDER_SECONDS
            log.warning(f"waiting: {what}", waited_seconds=round(time.monotonic() - began))
        stop.wait(0.5)
    return False


def _admin(settings: Settings, brokers: list[str] | None = None) -> KafkaAdminClient:
    where = {"bootstrap_servers": brokers} if brokers else {}
    return KafkaAdminClient(**_common(settings) | where, bootstrap_timeout_ms=1_000)


def _list_topics(settings: Settings, brokers: list[str] | None = None) -> list[str]:
    admin = _admin(settings, brokers)
    try:
        return list(admin.list_topics())
    finally:
        admin.close()


def broker_missing(settings: Settings, number: int) -> bool:
    """Whether a broker of ./start.sh does not answer."""
    host, port = settings.broker_address(number)
    try:
        _list_topics(settings, [f"{host}:{port}"])
    except RetriableError:
        return True
    return False


def create_topics(settings: Settings, replace: bool, stop: StopFlag, log: Log, quiet: bool = False) -> bool:
    """Create every topic that is missing, after deleting all that are there where `replace` is set.

    Returns False when a stop was requested before it was done.
    """
    if not wait_for_broker(settings, stop, log):
        return False
    admin = _admin(settings)
    try:
        wanted = set(settings.topics)
        present = wanted & set(admin.list_topics())
        if replace and present:
            admin.delete_topics(sorted(present))
            if not _wait(lambda: _still_there(admin, wanted), settings, stop, log):
                return False
            present = set()
        for name in settings.topics:
            if name not in present and not _wait(lambda name=name: _create(admin, name), settings, stop, log):  # type: ignore[misc]
                return False
            if not quiet:
                log.info("topic exists" if name in present else "topic created", topic=name, partitions=PARTITIONS)
    finally:
        admin.close()
    return wait_for_topics(settings, wanted, stop, log)


def _still_there(admin: KafkaAdminClient, topics: set[str]) -> str | None:
    left = topics & set(admin.list_topics())
    return f"the broker is deleting {', '.join(sorted(left))}" if left else None


def _create(admin: KafkaAdminClient, name: str) -> str | None:
    try:
        # -1 is the broker's own default, which start.sh sets by the number of brokers.
        configs = COMPACTED if name == REGISTRY_TOPIC else {}
        admin.create_topics([NewTopic(name, PARTITIONS, replication_factor=-1, topic_configs=configs)])
    except TopicAlreadyExistsError:
        return f"the broker is still deleting {name}"
    except UnknownTopicOrPartitionError:
        return f"the broker does not know {name} yet"
    except InvalidReplicationFactorError as error:  # a broker that has been busy is no broker until it says it is back
        return f"there are not enough brokers for {name} yet ({error.args[0] if error.args else error})"
    return None


def main() -> None:
    """Entry point of the command in the module's docstring."""
    arguments = sys.argv[2:] if sys.argv[1:2] == ["replace"] else ["--help"]
    run_script(__doc__ or "", _replace_topics, arguments)


def _replace_topics(settings: Settings) -> int:
    return 0 if create_topics(settings, replace=True, stop=stop_on_signals(), log=Log("topics")) else 1


if __name__ == "__main__":
    main()
