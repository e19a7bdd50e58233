"""Records → a topic, through a buffer that has a bound."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from emostream.broker import PARTITIONS
from emostream.broker_trouble import explain
from emostream.kafka_security import librdkafka_options
from emostream.process import Log
from emostream.settings import Settings

FULL_BATCH_EVENTS = 20_000  # with so many waiting, a batch leaves before the end of the linger
STICKY_MS = 10
POLL_SECONDS = 0.5


class BufferFull(Exception):
    """The producer holds as many records as it may, or the broker never told it of the topic."""


class Receipt:
    """Knows when the broker has every record that was sent with it."""

    def __init__(self) -> None:
        self._done: Future[None] = Future()
        # A waiter that gives up cancels the future that it waits for. The records arrive all the same, and then the
        # producer's thread sets the result, which would fail on a cancelled future. A running one cannot be cancelled.
        self._done.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._missing = 1

    def closed(self) -> Future[None]:
        """No more records follow. The future is done when the broker has all of them."""
        self.add(-1)
        return self._done

    def add(self, records: int) -> None:
        """So many more records are missing at the broker; fewer if negative."""
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
        """Make it in the process that uses it: its threads do not survive a fork.

        `receipts`: records may be sent with a Receipt. Otherwise only losses are reported, which costs less.
        """
        self._topic = topic
        self._max_buffered = settings.max_buffered_events
        self._log = log
        self._lock = threading.Lock()
        self._accepted = 0
        self._lost = 0
        self._ended = False
        self._report = partial(self._on_delivery, None)
        self.connected = True  # to at least one broker; the caller has waited for that
        self.trouble: str | None = None  # why the last attempt to connect failed, if that needs somebody's care
        self._explain = partial(explain, settings)
        self._producer = Producer(
            {
                **librdkafka_options(settings),
                "reconnect.backoff.max.ms": 1_000,
                "enable.idempotence": True,
                "acks": "all",
                # If a request fails, the broker refuses those that were on their way after it. librdkafka then begins a
                # new producer epoch, in which the broker no longer knows what it has of the other partitions: an event
                # sent again would be there twice. https://github.com/confluentinc/librdkafka/issues/4953
                "max.in.flight.requests.per.connection": 1,
                "compression.type": "lz4",
                "linger.ms": linger_ms,
                # With the default, twice the linger, a whole micro-batch would go to one partition, so to one reader.
                "sticky.partitioning.linger.ms": STICKY_MS,
                # A batch for one partition leaves with so many records, so on all together FULL_BATCH_EVENTS can wait.
                "batch.num.messages": FULL_BATCH_EVENTS // PARTITIONS,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": self._max_buffered,
                "delivery.report.only.error": not receipts,
                "statistics.interval.ms": 1_000,
                "stats_cb": self._on_statistics,
                # Errors of records come back with them, and the state of connections with the statistics.
                "log_level": 0,
                "error_cb": self._on_error,
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
        """Send all accepted records now, and those that come meanwhile at once."""
        self._producer.flush(timeout_seconds)

    @property
    def running(self) -> bool:
        """Whether the thread is alive that learns what became of records."""
        return self._poller.is_alive()

    @property
    def buffered(self) -> int:
        """Records accepted and neither acknowledged nor lost."""
        return len(self._producer)

    def counts(self) -> dict[str, int]:
        """How many records so far were accepted, acknowledged and lost."""
        acknowledged = max(0, self._accepted - self._lost - self.buffered)
        return {"accepted": self._accepted, "acknowledged": acknowledged, "lost": self._lost}

    def drain(self, timeout_seconds: float) -> int:
        """Send all accepted records, and end. Returns how many were given up after `timeout_seconds`."""
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
        brokers = _statistics_decoder.decode(statistics).brokers.values()
        self.connected = any(broker.state == "UP" for broker in brokers)
        if self.connected:
            self.trouble = None
