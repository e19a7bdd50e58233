"""One cluster's topic → every registered client and every event stream."""

from __future__ import annotations

import socket
import threading
import time

from kafka.errors import KafkaError

from emostream import roles
from emostream.deliver.clients import RegisteredClients
from emostream.deliver.rooms import Rooms
from emostream.deliver.routes import create_app
from emostream.deliver.stream.event_stream import allow_descriptors
from emostream.deliver.stream.server import StreamServer
from emostream.deliver.topic_reader import TopicReader
from emostream.http.access import AllowedHosts
from emostream.http.cors import Cors
from emostream.http.wsgi import serve_wsgi
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import Heartbeat, Log, StopFlag, bound_socket, exit_stuck, stop_on_signals
from emostream.settings import REGISTRY_TOPIC, Settings
from emostream.topics import TopicWatch, wait_for_topics

SAVE_EVERY_SECONDS = 1.0
CLOSE_STREAMS_SECONDS = 2.0
MAX_HISTORY_RECORDS = 100_000


class ThreadEnded(Exception):
    """A thread that serves clients or streams has ended."""


class Subscriber:
    """The registered clients and event streams of one cluster topic, and the rooms from which both are served."""

    def __init__(self, settings: Settings, stream_listener: socket.socket, stop: StopFlag, log: Log) -> None:
        """Read the topic to its end, then serve the clients again that were registered before. Raises KafkaError.

        Nobody can register before that, because a new client gets only what is published from then on.
        """
        self._settings = settings
        self._role = roles.subscriber(settings, settings.cluster, settings.subscriber)
        self.place = roles.place(settings, self._role)
        self.counters = Metrics(log, DELIVER)
        rooms = Rooms(settings.max_age_seconds, MAX_HISTORY_RECORDS, self.counters, log)
        self.topic_reader = TopicReader(settings, settings.required_cluster_topic(), rooms, self.counters, log)
        self.clients = RegisteredClients(settings, rooms, self.topic_reader, self.counters, log)
        reader = self.topic_reader
        reader.catch_up(stop)
        self.clients.restore()
        max_streams = allow_descriptors(log, settings.max_streams, settings.max_clients)
        cors, check_host = Cors(settings.cors_origins), AllowedHosts(settings).check
        self._streams = StreamServer(
            stream_listener, rooms, settings.cluster, cors, max_streams, self.counters, log, check_host
        )  # fmt: skip
        self.counters.read(
            clients=lambda: len(self.clients.all()),
            slots=lambda: settings.max_clients,
            streams=lambda: self._streams.streams,
            lag=lambda: reader.consumer.lag,
            client_behind=lambda: {url: client.behind() for url, client in self.clients.all().items()},
            client_failing=lambda: {url: client.failing_seconds() for url, client in self.clients.all().items()},
        )
        self._watch = TopicWatch(settings, needs(settings), log)
        log.info("delivering", clients=len(self.clients.all()), positions=reader.next_offsets)

    @property
    def healthy(self) -> bool:
        """Whether every thread that serves clients or streams is alive."""
        return self.clients.running and self._streams.running

    def not_ready(self) -> str | None:
        """Why the subscriber cannot do all of its work; None when it can."""
        return self.topic_reader.consumer.trouble or self._watch.problem

    def status(self) -> dict[str, object]:
        """The body of GET /status."""
        settings, streams = self._settings, self._streams.streams
        return {
            "available_slots": self.clients.free_slots(),
            "cluster_topic": settings.required_cluster_topic(),
            "subscriber": settings.subscriber,
            "stream_port": self._role.addresses[1].port,
            "streams": streams,
            "available_streams": max(0, self._streams.max_streams - streams),
            "clients": sorted(self.clients.all()),
            "evicted": self.clients.evicted,
            "counts": self.counters.snapshot(),
        }

    def drain(self, timeout_seconds: float) -> None:
        """Deliver what is on the topic, for at most `timeout_seconds`. Then save all registrations and close."""
        self.clients.withdraw()
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.topic_reader.run_once(poll_ms=200):
            pass
        self.clients.drain(deadline)
        self._streams.close(CLOSE_STREAMS_SECONDS)
        self.clients.close()
        self.topic_reader.close()


def needs(settings: Settings) -> dict[str, str]:
    """What it does with which topic."""
    return {settings.required_cluster_topic(): "READ", REGISTRY_TOPIC: "READ WRITE"}


def run(settings: Settings) -> int:
    """Serve clients and streams until SIGTERM or SIGINT. Then deliver what is left on the topic."""
    cluster_topic = settings.required_cluster_topic()
    log = Log("deliver", cluster=cluster_topic, subscriber=settings.subscriber)
    stop = stop_on_signals()
    role = roles.subscriber(settings, settings.cluster, settings.subscriber)
    heartbeat = Heartbeat(settings, role.name)
    if not wait_for_topics(settings, needs(settings), stop, log, heartbeat.not_ready):
        return 0
    # A port may be taken, so bind both now. Listen only when clients may register.
    listener, stream_listener = [bound_socket(at.host, at.port, at.setting) for at in role.addresses]
    stream_port = role.addresses[1].port
    try:
        subscriber = Subscriber(settings, stream_listener, stop, log)
        page, cors = MetricsPage(subscriber.counters), Cors(settings.cors_origins)
        stream_url = subscriber.place.stream_url if settings.advertised_stream_url.startswith("http") else ""
        app = create_app(
            subscriber.clients, subscriber.status, subscriber.not_ready, page, stream_port, cors, stream_url
        )  # fmt: skip
        http = serve_wsgi(app, listener, log, settings)
        subscriber.clients.announce(subscriber.place)
        log.info("listening", address=settings.bind_host, port=role.port, stream_port=stream_port)
        _follow(subscriber, http, heartbeat, stop)
        subscriber.drain(settings.drain_seconds)
    except (KafkaError, ThreadEnded) as error:
        log.error("this subscriber cannot continue; another process takes over", reason=error)
        return exit_stuck(stop)
    subscriber.counters.log_if_due(final=True)
    log.info("stopped")
    return 0


def _follow(subscriber: Subscriber, http: threading.Thread, heartbeat: Heartbeat, stop: StopFlag) -> None:
    save_due = 0.0
    while not stop.requested:
        if not subscriber.healthy or not http.is_alive():
            raise ThreadEnded("a thread has ended; the lines above say what it raised")
        heartbeat.not_ready(subscriber.not_ready() or "")
        subscriber.topic_reader.run_once()
        subscriber.counters.log_if_due()
        if time.monotonic() >= save_due:
            subscriber.clients.save_positions()
            save_due = time.monotonic() + SAVE_EVERY_SECONDS
    heartbeat.end()
