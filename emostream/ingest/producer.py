"""Events → EMOJI_TOPIC, through a buffer that has a bound."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from emostream.broker import PARTITIONS
from emostream.process import Log
from emostream.settings import Settings

FULL_BATCH_EVENTS = 20_000  # so many do not wait for the linger any more
STICKY_MS = 10
POLL_SECONDS = 0.5


class BufferFull(Exception):
    """The producer holds as many records as it may, or the broker never told it of the topic."""


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
