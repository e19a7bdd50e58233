"""One cluster's topic → every registered client and every event stream."""

from __future__ import annotations

import socket
import threading
import time

from kafka.errors import KafkaError

from emostream import roles
from emostream.deliver.clients import RegisteredClients
from emostream.deliver.history import History
from emostream.deliver.routes import create_app
from emostream.deliver.stream.event_stream import allow_descriptors
from emostream.deliver.stream.micro_batches import MicroBatches
from emostream.deliver.stream.server import StreamServer
from emostream.deliver.topic_reader import TopicReader
from emostream.http.access import AllowedHosts
from emostream.http.cors import Cors
from emostream.http.wsgi import serve_wsgi
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import EXIT_STUCK, Heartbeat, Log, StopFlag, bound_socket, stop_on_signals
from emostream.settings import REGISTRY_TOPIC, Settings
from emostream.topics import wait_for_topics

SAVE_EVERY_SECONDS = 1.0
CLOSE_STREAMS_SECONDS = 2.0
MAX_HISTORY_RECORDS = 100_000


class ThreadEnded(Exception):
    """A thread that serves clients or streams has ended."""


class Subscriber:
    """The registered clients and the event streams of one cluster topic, and the history that both are served from."""

    def __init__(self, settings: Settings, log: Log) -> None:
        """Connects to the broker. Raises KafkaError."""
        self.cluster_topic = settings.required_cluster_topic()
        self.number = settings.subscriber
        self.counters = Metrics(log, DELIVER)
        self._page = MetricsPage(self.counters)
        self._log = log
        self._settings = settings
        self._history = History(settings.max_age_seconds, MAX_HISTORY_RECORDS)
        self.topic_reader = TopicReader(settings, self.cluster_topic, self._history, self.counters, log)
        self._clients = RegisteredClients(settings, self._history, self.topic_reader, self.counters, log)
        self._streams: StreamServer | None = None
        self.counters.read(
            clients=lambda: len(self._clients.all()),
            slots=lambda: settings.max_clients,
            streams=lambda: self._streams.streams if self._streams else 0,
            lag=lambda: self.topic_reader.lag.records,
            client_behind=lambda: {url: client.behind() for url, client in self._clients.all().items()},
            client_failing=lambda: {url: client.failing_seconds() for url, client in self._clients.all().items()},
        )

    def start(self, stop: StopFlag) -> None:
        """Read the history up to the end of the topic, and go on with the clients that were registered before.

        A client can register only after that: it gets what is published from then on. Raises KafkaError.
        """
        self.topic_reader.catch_up(stop)
        self._clients.restore()
        self._log.info("delivering", clients=len(self._clients.all()), positions=self.topic_reader.next_offsets)

    def open_streams(self, listener: socket.socket) -> None:
        """Serve event streams on a bound socket."""
        settings, reader = self._settings, self.topic_reader
        batches = MicroBatches(
            settings.cluster, reader.starts | reader.forgotten, reader.forgotten_batch_ids,
            settings.max_age_seconds, MAX_HISTORY_RECORDS,
        )  # fmt: skip
        max_streams = allow_descriptors(self._log, settings.max_streams, settings.max_clients)
        self._streams = StreamServer(
            listener,
            self._history,
            batches,
            Cors(settings.cors_origins),
            max_streams,
            self.counters,
            self._log,
            AllowedHosts(settings).check,
        )

    @property
    def healthy(self) -> bool:
        """Whether every thread that serves clients or streams is alive."""
        return self._clients.running and self._streams is not None and self._streams.running

    def register(self, client_url: str, token: str) -> bool:
        """Give a client a slot; False when it had one. Raises as in SubscriberCalls."""
        return self._clients.register(client_url, token)

    def deregister(self, client_url: str, token: str) -> bool:
        """Free a client's slot; False when it had none. Raises NotYours."""
        return self._clients.deregister(client_url, token)

    def status(self) -> dict[str, object]:
        """The body of GET /status."""
        streams, max_streams = (self._streams.streams, self._streams.max_streams) if self._streams else (0, 0)
        return {
            "available_slots": self._clients.free_slots(),
            "cluster_topic": self.cluster_topic,
            "subscriber": self.number,
            "stream_port": self._settings.stream_port(self.cluster_topic, self.number),
            "streams": streams,
            "available_streams": max(0, max_streams - streams),
            "clients": sorted(self._clients.all()),
            "evicted": self._clients.evicted,
            "counts": self.counters.snapshot(),
        }

    def metrics(self) -> bytes:
        """The body of GET /metrics."""
        return self._page.text()

    def save_positions(self) -> None:
        """Save how far each client has come, where that changed."""
        self._clients.save_positions()

    def drain(self, timeout_seconds: float) -> None:
        """Deliver what is on the topic, for at most `timeout_seconds`, and save how far each client has come."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.topic_reader.run_once(poll_ms=200):
            pass
        self._clients.drain(deadline)
        if self._streams:
            self._streams.close(CLOSE_STREAMS_SECONDS)
        self._clients.close()
        self.topic_reader.close()


def run(settings: Settings) -> int:
    """Serve clients and streams until SIGTERM or SIGINT, then deliver what is left on the topic, and end."""
    cluster_topic = settings.required_cluster_topic()
    log = Log("deliver", cluster=cluster_topic, subscriber=settings.subscriber)
    stop = stop_on_signals()
    if not wait_for_topics(settings, [cluster_topic, REGISTRY_TOPIC], stop, log):
        return 0
    role = roles.subscriber(settings, settings.cluster, settings.subscriber)
    # Bound first, because that may fail, but not listened on before a client may register.
    listener, stream_listener = [bound_socket(at.host, at.port, at.setting) for at in role.addresses]
    stream_port = role.addresses[1].port
    try:
        subscriber = Subscriber(settings, log)
        subscriber.start(stop)
        subscriber.open_streams(stream_listener)
        app = create_app(subscriber, stream_port, Cors(settings.cors_origins))
        http = serve_wsgi(app, listener, log, settings)
        log.info("listening", address=settings.bind_host, port=role.port, stream_port=stream_port)
        _follow(subscriber, http, Heartbeat(settings, role.name), stop)
        subscriber.drain(settings.drain_seconds)
    except KafkaError as error:
        log.error("the broker failed this subscriber; a successor goes on", reason=error)
        return EXIT_STUCK
    except ThreadEnded as error:
        log.error("a thread of this subscriber has ended; a successor goes on", reason=error)
        return EXIT_STUCK
    subscriber.counters.log_if_due(final=True)
    log.info("stopped")
    return 0


def _follow(subscriber: Subscriber, http: threading.Thread, heartbeat: Heartbeat, stop: StopFlag) -> None:
    save_due = 0.0
    while not stop.requested:
        if not subscriber.healthy or not http.is_alive():
            raise ThreadEnded("see above for what it raised")
        heartbeat.beat()
        subscriber.topic_reader.run_once()
        subscriber.counters.log_if_due()
        if time.monotonic() >= save_due:
            subscriber.save_positions()
            save_due = time.monotonic() + SAVE_EVERY_SECONDS
    heartbeat.end()
