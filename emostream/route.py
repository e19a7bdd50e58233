"""MAIN_TOPIC → one cluster's topic, every record unchanged and exactly once.

Each step consumes, produces and commits its position in one transaction. The position is the committed offset of the
consumer group `<cluster topic>-publisher`. That name is also the transactional id, so a second publisher for the same
cluster fences the first.
"""

from __future__ import annotations

import time

from kafka import KafkaProducer, OffsetAndMetadata
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, MessageSizeTooLargeError

from emostream.broker import (
    TRANSACTION_SECONDS,
    SentRecord,
    commit_transaction,
    is_fenced,
    transactional_producer,
)
from emostream.consumers import AssignedConsumer, Polled, skip_record
from emostream.http.metrics_port import serve_metrics
from emostream.metrics.catalogue import ROUTE
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import (
    EXIT_FENCED,
    EXIT_STUCK,
    Heartbeat,
    Log,
    StepTimeout,
    StopFlag,
    end_at_once,
    exit_stuck,
    stop_on_signals,
    within,
)
from emostream.records import InvalidRecord, parse_count
from emostream.roles import cluster_publisher
from emostream.settings import Settings
from emostream.topics import TopicWatch, wait_for_topics

POLL_MS = 500


class Router:
    """Copies MAIN_TOPIC to one cluster topic, one transaction per step."""

    def __init__(self, settings: Settings, counters: Metrics, log: Log) -> None:
        self._settings = settings
        self._cluster_topic = settings.required_cluster_topic()
        self._group = group_of(settings)
        self._log = log
        self.counters = counters
        self._producer: KafkaProducer = transactional_producer(settings, self._group)
        self.consumer = AssignedConsumer(settings, settings.main_topic, self._group, log)
        self._watch = TopicWatch(settings, needs(settings), log, self._group)
        self.counters.read(lag=lambda: self.consumer.lag)

    def start(self) -> None:
        """Fence any older publisher of this cluster and go on where its last transaction ended."""
        # Fence first: an older publisher could otherwise commit after the position was read.
        within(TRANSACTION_SECONDS, "starting transactions", self._producer.init_transactions)
        positions = within(TRANSACTION_SECONDS, "finding the position", self._find_position)
        self._log.info("routing", source=self._settings.main_topic, positions=positions)

    def _find_position(self) -> dict[int, int]:
        return {tp.partition: offset for tp, offset in self.consumer.go_on_where_committed().items()}

    def not_ready(self) -> str | None:
        """Why it cannot route all records; None when it can."""
        return self.consumer.trouble or self._watch.problem

    def run_once(self, poll_ms: int = POLL_MS) -> int:
        """Route new records, waiting at most `poll_ms` for the first; returns how many were read.

        Raises KafkaError or StepTimeout. The successor then reads the records of the broken transaction again.
        """
        polled = within(poll_ms / 1000 + TRANSACTION_SECONDS, "polling", lambda: self.consumer.poll(poll_ms))
        if not polled:
            return 0
        began = time.monotonic()
        within(TRANSACTION_SECONDS, "the transaction", lambda: self._route_all(polled))
        self.counters.add("transactions")
        self.counters.histograms["step"].observe(time.monotonic() - began)
        return sum(map(len, polled.values()))

    def _route_all(self, polled: Polled) -> None:
        self._producer.begin_transaction()
        partitions = len(self._producer.partitions_for(self._cluster_topic))
        sent = [self._route(record, partitions) for records in polled.values() for record in records]
        # Of all partitions, so that the broker never forgets where an idle one was read to.
        offsets = {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in self.consumer.positions().items()}
        self._producer.send_offsets_to_transaction(offsets, self._group)
        commit_transaction(self._producer, filter(None, sent))

    def is_fenced(self, error: KafkaError) -> bool:
        """Whether `error` means that another publisher for this cluster has begun."""
        return is_fenced(self._producer, error)

    def _route(self, record: ConsumerRecord, partitions: int) -> SentRecord | None:
        try:
            parse_count(record.value)
            # All of a partition to the same one, so that the order of each emoji's counts stays, also without keys.
            partition = record.partition % partitions
            sent: SentRecord = self._producer.send(
                self._cluster_topic, key=record.key, value=record.value, partition=partition
            )
        except (InvalidRecord, MessageSizeTooLargeError) as error:
            skip_record(record, error, self.counters, self._log)
            return None
        self.counters.add("routed")
        return sent

    def drain(self, timeout_seconds: float) -> None:
        """Route what is left on MAIN_TOPIC, for at most `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.run_once(poll_ms=200):
            pass
        self.counters.log_if_due(final=True)

    def close(self) -> None:
        """Close both connections. The successor aborts an open transaction."""
        self.consumer.close()
        self._producer.close(timeout=1)


def group_of(settings: Settings) -> str:
    """The consumer group, and the transactional id, of this cluster's publisher."""
    return f"{settings.required_cluster_topic()}-publisher"


def needs(settings: Settings) -> dict[str, str]:
    """What it does with which topic."""
    return {settings.main_topic: "READ", settings.required_cluster_topic(): "WRITE"}


def run(settings: Settings) -> int:
    """Route until SIGTERM or SIGINT, then what is left on MAIN_TOPIC, and end."""
    cluster_topic = settings.required_cluster_topic()
    log = Log("route", cluster=cluster_topic)
    stop = stop_on_signals()
    role = cluster_publisher(settings, settings.cluster)
    heartbeat = Heartbeat(settings, role.name)
    counters = Metrics(log, ROUTE)
    serve_metrics(MetricsPage(counters), settings, role, log)
    if not wait_for_topics(settings, needs(settings), stop, log, heartbeat.not_ready, group_of(settings)):
        return 0
    router = Router(settings, counters, log)
    try:
        router.start()
        _follow(router, heartbeat, stop)
        router.drain(settings.drain_seconds)
    except KafkaError as error:
        router.counters.add("transaction_aborts")
        if router.is_fenced(error):
            log.error("another publisher for this cluster has taken over; this one ends")
            return EXIT_FENCED
        log.error("the transaction failed; a successor goes on after the last committed one", reason=error)
        return exit_stuck(stop)
    except StepTimeout as error:
        log.error(f"{error}; this process ends so that a successor goes on")
        end_at_once(EXIT_STUCK)
    router.close()
    log.info("stopped")
    return 0


def _follow(router: Router, heartbeat: Heartbeat, stop: StopFlag) -> None:
    while not stop.requested:
        # Before the first record: a successor is ready when it can work, not when it has worked.
        heartbeat.not_ready(router.not_ready() or "")
        router.run_once()
        router.counters.log_if_due()
    heartbeat.end()
