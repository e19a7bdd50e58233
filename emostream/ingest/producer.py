"""Records → a topic, through a buffer of limited size."""

from __future__ import annotations

import json
import threading
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Producer

from emostream.broker import METADATA_AGE_MS
from emostream.broker_trouble import explain
from emostream.ingest.receipts import Receipt
from emostream.kafka_security import librdkafka_options
from emostream.process import Log
from emostream.settings import Settings

FULL_BATCH_EVENTS = 20_000  # if this many wait, they are sent before the end of the linger
SMALLEST_BATCH_EVENTS = 1_000  # however many partitions share them
STICKY_MS = 10
POLL_SECONDS = 0.5


class BufferFull(Exception):
    """The producer's buffer is full, or the producer does not know the topic."""


class BoundedProducer:
    """A producer that waits for the linger before it sends, and buffers at most MAX_BUFFERED_EVENTS records.

    It uses librdkafka, which needs 2 µs for a record; kafka-python needs 40. Records never expire.
    """

    def __init__(self, settings: Settings, topic: str, linger_ms: int, receipts: bool, log: Log) -> None:
        """Make it after the fork, because its threads do not survive one.

        Only with `receipts` may a record be sent with a Receipt. Without, librdkafka reports only lost records, which
        is faster.
        """
        self._topic = topic
        self._max_buffered = settings.max_buffered_events
        self._log = log
        self._lock = threading.Lock()
        self._accepted = 0
        self._lost = 0
        self._ended = False
        self._report = partial(self._on_delivery, None)
        self.connected = True  # to at least one broker: the app has waited for its topic
        self.trouble: str | None = None  # why the last attempt to connect failed, if that needs somebody's care
        self._explain = partial(explain, settings)
        self._producer = Producer(
            {
                **librdkafka_options(settings),
                "reconnect.backoff.max.ms": 1_000,
                "enable.idempotence": True,
                "acks": "all",
                # If one of several requests in flight fails, librdkafka starts a new producer epoch. The broker then
                # does not recognise records that it already has, so a repeated event would be there twice.
                # https://github.com/confluentinc/librdkafka/issues/4953
                "max.in.flight.requests.per.connection": 1,
                "compression.type": "lz4",
                "linger.ms": linger_ms,
                # By default this is twice the linger. Then all events of a micro-batch would go to one partition, and
                # Spark would read them with one task.
                "sticky.partitioning.linger.ms": STICKY_MS,
                # A full batch is sent at once. This number is per partition, FULL_BATCH_EVENTS is for all together.
                "batch.num.messages": max(FULL_BATCH_EVENTS // settings.partitions, SMALLEST_BATCH_EVENTS),
                # By default librdkafka writes to new partitions only after five minutes.
                "topic.metadata.refresh.interval.ms": METADATA_AGE_MS,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": self._max_buffered,
                "delivery.report.only.error": not receipts,
                "statistics.interval.ms": 1_000,
                "stats_cb": self._on_statistics,
                # We learn of lost records from their reports, and of lost connections from the statistics.
                "log_level": 0,
                "error_cb": self._on_error,
            }
        )
        self._poller = threading.Thread(target=self._poll, name="poll", daemon=True)
        self._poller.start()

    def send(self, value: bytes, receipt: Receipt | None = None) -> None:
        """Accept a record, which is sent within the linger. Raises BufferFull if it is not accepted."""
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
        """Send all accepted records now. Records that come meanwhile do not wait for the linger."""
        self._producer.flush(timeout_seconds)

    @property
    def running(self) -> bool:
        """Whether the thread that receives the reports is alive."""
        return self._poller.is_alive()

    @property
    def buffered(self) -> int:
        """How many records wait for the broker."""
        return len(self._producer)

    def counts(self) -> dict[str, int]:
        """How many records so far were accepted, acknowledged and lost."""
        acknowledged = max(0, self._accepted - self._lost - self.buffered)
        return {"accepted": self._accepted, "acknowledged": acknowledged, "lost": self._lost}

    def drain(self, timeout_seconds: float) -> int:
        """Send all accepted records, and end. Return how many were given up after `timeout_seconds`."""
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

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = self._explain(error) or self.trouble

    def _on_statistics(self, statistics: str) -> None:
        brokers = json.loads(statistics)["brokers"].values()
        self.connected = any(broker["state"] == "UP" for broker in brokers)
        if self.connected:
            self.trouble = None
