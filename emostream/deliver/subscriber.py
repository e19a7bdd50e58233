"""One cluster's topic → every registered client and every event stream."""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kafka.errors import KafkaError

from emostream.deliver.history import History
from emostream.deliver.push.allowed_networks import AllowedNetworks, resolve
from emostream.deliver.push.client import Position, PushClient, PushPolicy
from emostream.deliver.push.engine import PushEngine
from emostream.deliver.registry import Full, NotYours, Registration, Registry, RegistryTopic
from emostream.deliver.routes import create_app
from emostream.deliver.stream.micro_batches import Batches
from emostream.deliver.stream.server import StreamServer, allow_descriptors
from emostream.deliver.topic_reader import Follower
from emostream.http.client import Target
from emostream.http.cors import Cors
from emostream.http.wsgi import serve_wsgi
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.metrics.page import Page
from emostream.process import EXIT_STUCK, Heartbeat, Log, StopFlag, bound_socket, stop_on_signals, within
from emostream.settings import CLUSTER_TOPICS, REGISTRY_TOPIC, Settings
from emostream.topics import wait_for_topics

SAVE_EVERY_SECONDS = 1.0
CLOSE_STREAMS_SECONDS = 2.0
RESOLVE_SECONDS = 3.0
# A healthy client gets the counts of a micro-batch long before the next one; what has waited for longer is merged.
MERGE_AFTER_BATCHES = 2
MAX_HISTORY_RECORDS = 100_000
# What GET /status remembers of those who have lost their slots; the log has all of them.
MAX_EVICTED = 10
MAX_REASON_CHARACTERS = 200


class ThreadEnded(Exception):
    """A thread that serves others is not there any more."""


@dataclass(frozen=True)
class Slot:
    """A registered client, and the hash of the token without which nobody can deregister it."""

    client: PushClient
    token_hash: str
    stop: Callable[[], None]

    def close(self) -> None:
        """Stop serving the client."""
        self.stop()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest() if token else ""


class Subscriber:
    """The clients and streams of one cluster topic, who come and go, and the history that they are served from."""

    def __init__(self, settings: Settings, log: Log) -> None:
        """Connects to the broker. Raises KafkaError."""
        self.cluster_topic = settings.required_cluster_topic()
        self.number = settings.subscriber
        self.counters = Metrics(log, DELIVER)
        self._page = Page(self.counters)
        self._log = log
        self._policy = PushPolicy(
            self.cluster_topic, self.number, MERGE_AFTER_BATCHES * settings.batch_seconds,
            settings.max_age_seconds, settings.evict_after_seconds,
            AllowedNetworks(settings.client_networks), settings.push_key,
        )  # fmt: skip
        self._history = History(settings.max_age_seconds, MAX_HISTORY_RECORDS)
        self._settings = settings
        self._streams: StreamServer | None = None
        self._registry: Registry[Slot] = Registry(settings.max_clients)
        self._engine = PushEngine(self._history, self._policy, self.counters, log, self._evict, self._keep)
        self._evicted: list[dict[str, object]] = []  # replaced as a whole, so that any thread may read it
        self._saved: dict[str, Position] = {}
        self._save_lock = threading.Lock()
        self._store = RegistryTopic(settings, self.cluster_topic, self.number)
        self.follower = Follower(settings, self.cluster_topic, self._history, self.counters, log)
        self.counters.read(
            clients=lambda: len(self._registry.clients()),
            slots=lambda: settings.max_clients,
            streams=lambda: self._streams.streams if self._streams else 0,
            lag=lambda: self.follower.lag.records,
            client_behind=lambda: {url: slot.client.behind() for url, slot in self._registry.clients().items()},
            client_failing=lambda: {
                url: slot.client.failing_seconds() for url, slot in self._registry.clients().items()
            },
        )

    def start(self, stop: StopFlag) -> None:
        """Read the history up to the end of the topic, and go on with the clients that were registered before.

        Only after that can a client register: it gets what is published from then on. Raises KafkaError.
        """
        self.follower.catch_up(stop)
        for registration in self._store.read():
            self._restore(registration)
        self._log.info("delivering", clients=len(self._registry.clients()), positions=self.follower.next_offsets)

    def open_streams(self, listener: socket.socket) -> None:
        """Serve event streams on a bound socket."""
        settings = self._settings
        cluster = CLUSTER_TOPICS.index(self.cluster_topic) + 1
        batches = Batches(
            cluster, self.follower.starts | self.follower.forgotten, self.follower.forgotten_batch_ids,
            settings.max_age_seconds, MAX_HISTORY_RECORDS,
        )  # fmt: skip
        max_streams = allow_descriptors(self._log, settings.max_streams, settings.max_clients)
        self._streams = StreamServer(
            listener, self._history, batches, Cors(settings.cors_origins), max_streams, self.counters, self._log
        )
        self._streams.start()

    @property
    def healthy(self) -> bool:
        """Whether every thread that serves somebody is there."""
        return self._engine.running and self._streams is not None and self._streams.running

    def register(self, client_url: str, token: str) -> bool:
        """Give a client a slot; False where it had one.

        Raises Full, NotYours, KafkaError where that cannot be kept, and PushError or OSError where the client is not
        where it may be, or does not echo the challenge.
        """
        if self._owned(client_url, token):
            return False
        target = Target.parse(client_url)
        within(RESOLVE_SECONDS, "resolve", lambda: self._policy.networks.check(target.host, resolve(target.host, 0)))
        if self._settings.verify_clients:
            if not self._registry.free_slots():
                raise Full(f"all {self._settings.max_clients} slots are taken")
            self._engine.verify(client_url, secrets.token_urlsafe())
        cursor = self._history.end
        position = Position(self.follower.ends())
        slot = self._add(client_url, cursor, position, _hash(token))
        if slot is None:
            return False
        try:
            self._save(client_url, slot, wait=True)
        except KafkaError:
            self._registry.remove(client_url)
            self._forget(client_url)  # it may have been kept all the same
            raise
        self._log.info("registered", client_url=client_url, available_slots=self._registry.free_slots())
        return True

    def deregister(self, client_url: str, token: str) -> bool:
        """Free a client's slot; False where it had none. Raises NotYours."""
        if not self._owned(client_url, token) or not self._registry.remove(client_url):
            return False
        self._forget(client_url)
        self._log.info("deregistered", client_url=client_url, available_slots=self._registry.free_slots())
        return True

    def status(self) -> dict[str, object]:
        """The body of GET /status."""
        clients = self._registry.clients()
        streams, max_streams = (self._streams.streams, self._streams.max_streams) if self._streams else (0, 0)
        return {
            "available_slots": self._registry.free_slots(),
            "cluster_topic": self.cluster_topic,
            "subscriber": self.number,
            "stream_port": self._settings.stream_port(self.cluster_topic, self.number),
            "streams": streams,
            "available_streams": max(0, max_streams - streams),
            "clients": sorted(clients),
            "evicted": self._evicted,
            "counts": self.counters.snapshot(),
        }

    def metrics(self) -> bytes:
        """The body of GET /metrics."""
        return self._page.text()

    def save_positions(self) -> None:
        """Keep how far each client has come, where that changed."""
        slots = self._registry.clients()
        with self._save_lock:
            self._saved = {url: saved for url, saved in self._saved.items() if url in slots}
        for client_url, slot in slots.items():
            if slot.client.position != self._saved.get(client_url):
                self._save(client_url, slot, wait=False)

    def drain(self, timeout_seconds: float) -> None:
        """Deliver what is on the topic, for at most `timeout_seconds`, and keep how far each client has come."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.follower.run_once(poll_ms=200):
            pass
        clients = self._registry.clients()
        while time.monotonic() < deadline and not all(slot.client.drained() for slot in clients.values()):
            time.sleep(0.02)
        behind = sorted(url for url, slot in clients.items() if not slot.client.drained())
        if behind:
            self._log.warning("stopping before these clients had all; the next start goes on there", clients=behind)
        self._engine.close()
        if self._streams:
            self._streams.close(CLOSE_STREAMS_SECONDS)
        self.save_positions()
        self._store.close()
        self.follower.close()

    def _restore(self, registration: Registration) -> None:
        """Go on with a client of before; what is below the history is too old to be sent."""
        starts, ends = self.follower.starts, self.follower.next_offsets
        # One beyond the end is of a topic that was replaced meanwhile.
        next_offsets = {p: offset for p, offset in registration.next_offsets.items() if offset <= ends.get(p, 0)}
        merging = registration.merging
        if merging and any(offset > ends.get(p, 0) for p, offset in merging.items()):
            merging = None
        if merging and any(next_offsets.get(p, 0) < min(start, merging.get(p, 0)) for p, start in starts.items()):
            # Some of what was in the merged counts is not here, so they cannot be made again as they were; and some of
            # them may have arrived, so their records must not be sent one by one.
            starts = {p: max(start, merging.get(p, 0)) for p, start in starts.items()}
            next_offsets, merging = {p: max(next_offsets.get(p, 0), end) for p, end in merging.items()}, None
        # Counted by offset, so the markers between transactions count as well.
        skipped = sum(
            max(0, start - registration.next_offsets.get(partition, start)) for partition, start in starts.items()
        )
        position = Position(next_offsets, merging)
        try:
            start, end = self._history.start, self._history.end
            self._add(registration.client_url, start, position, registration.token_hash, repeats_until=end)
        except Full:
            self._log.warning("no slot left for a client of before", client_url=registration.client_url)
        else:
            self.counters.add("expired", skipped)

    def _add(
        self, client_url: str, cursor: int, position: Position, token_hash: str, repeats_until: int = 0
    ) -> Slot | None:
        """Start serving a client; None where it is served already. Raises Full."""
        added: list[Slot] = []

        def make() -> Slot:
            client = self._engine.add(client_url, cursor, position, self.follower.generation, repeats_until)
            added.append(Slot(client, token_hash, lambda: self._engine.remove(client)))
            return added[0]

        return added[0] if self._registry.add(client_url, make) else None

    def _owned(self, client_url: str, token: str) -> bool:
        """Whether a client has a slot. Raises NotYours where it has, and its token is another one."""
        slot = self._registry.get(client_url)
        if slot and slot.token_hash and not secrets.compare_digest(slot.token_hash, _hash(token)):
            raise NotYours
        return slot is not None

    def _save(self, client_url: str, slot: Slot, wait: bool) -> None:
        """Keep how far a client has come. Raises KafkaError."""
        with self._save_lock:  # so that a position is never followed by one from before it
            position = slot.client.position
            self._saved[client_url] = position
            registration = Registration(client_url, position.next_offsets, position.merging, slot.token_hash)
            saved = self._store.save(registration)
            if self._registry.get(client_url) is not slot:
                self._forget(client_url)  # it left meanwhile, and would be back at the next start
        if wait:
            saved()

    def _keep(self, client_url: str, client: PushClient) -> None:
        slot = self._registry.get(client_url)
        if slot and slot.client is client:
            self._save(client_url, slot, wait=True)

    def _evict(self, client_url: str, client: PushClient, reason: str) -> None:
        slot = self._registry.get(client_url)
        if slot and slot.client is client and self._registry.remove(client_url, only=slot):
            self._forget(client_url)
            self.counters.add("evicted")
            shown, at_ms = reason[:MAX_REASON_CHARACTERS], round(time.time() * 1000)
            noted = {"client_url": client_url, "reason": shown, "at_ms": at_ms}
            self._evicted = [*self._evicted, noted][-MAX_EVICTED:]
            self._log.warning("evicted", client_url=client_url, reason=reason)

    def _forget(self, client_url: str) -> None:
        try:
            self._store.forget(client_url)
        except KafkaError as error:
            self._log.warning(
                "could not note that a client has left; a restart finds out", client_url=client_url, reason=error
            )


def run(settings: Settings) -> int:
    """Serve clients until SIGTERM or SIGINT, then deliver what is on the topic, and end."""
    cluster_topic = settings.required_cluster_topic()
    log = Log("deliver", cluster=cluster_topic, subscriber=settings.subscriber)
    stop = stop_on_signals()
    if not wait_for_topics(settings, [cluster_topic, REGISTRY_TOPIC], stop, log):
        return 0
    port = settings.subscriber_port(cluster_topic, settings.subscriber)
    name = f"subscriber_{CLUSTER_TOPICS.index(cluster_topic) + 1}_{settings.subscriber}"
    # Bound first, because that may fail, but not listened on before a client may register.
    listener = bound_socket(settings.bind_host, port, setting="SUBSCRIBER_BASE_PORT")
    stream_port = settings.stream_port(cluster_topic, settings.subscriber)
    stream_listener = bound_socket(settings.bind_host, stream_port, setting="STREAM_BASE_PORT")
    try:
        subscriber = Subscriber(settings, log)
        subscriber.start(stop)
        subscriber.open_streams(stream_listener)
        app = create_app(subscriber, stream_port, Cors(settings.cors_origins))
        http = serve_wsgi(app, listener, log)
        log.info("listening", address=settings.bind_host, port=port, stream_port=stream_port)
        _follow(subscriber, http, Heartbeat(settings, name), stop)
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
        subscriber.follower.run_once()
        subscriber.counters.log_if_due()
        if time.monotonic() >= save_due:
            subscriber.save_positions()
            save_due = time.monotonic() + SAVE_EVERY_SECONDS
    heartbeat.end()
