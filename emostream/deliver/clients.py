"""The registered clients of a subscriber: they register and deregister, are evicted, and come back after a restart."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time

from kafka.errors import KafkaError

from emostream.deliver.history import History
from emostream.deliver.push.allowed_networks import AllowedNetworks, resolve
from emostream.deliver.push.client import Position, PushClient, Start
from emostream.deliver.push.engine import PushEngine
from emostream.deliver.push.sender import PushPolicy
from emostream.deliver.registry import Full, NotYours, Registration, Registry, RegistryTopic
from emostream.deliver.topic_reader import TopicReader
from emostream.http.client import Target
from emostream.metrics.counters import Metrics
from emostream.process import Log, within
from emostream.settings import Settings

RESOLVE_SECONDS = 3.0
# A healthy client gets the counts of a micro-batch long before the next one. What has waited longer is merged.
MERGE_AFTER_BATCHES = 2
# How many evictions GET /status shows; the log has all of them.
MAX_EVICTED = 10
MAX_REASON_CHARACTERS = 200


class RegisteredClients:
    """Slots, the engine that pushes to the clients in them, and the topic in which they are kept."""

    def __init__(
        self, settings: Settings, history: History, topic_reader: TopicReader, counters: Metrics, log: Log
    ) -> None:
        """Connects to the broker. Raises KafkaError."""
        self._settings = settings
        self._history = history
        self._topic_reader = topic_reader
        self._counters = counters
        self._log = log
        cluster_topic = settings.required_cluster_topic()
        self._policy = PushPolicy(
            cluster_topic, settings.subscriber, MERGE_AFTER_BATCHES * settings.batch_seconds,
            settings.max_age_seconds, settings.evict_after_seconds,
            AllowedNetworks(settings.client_networks), settings.push_key,
        )  # fmt: skip
        self._registry: Registry[PushClient] = Registry(settings.max_clients)
        self._topic = RegistryTopic(settings, cluster_topic, settings.subscriber)
        self._engine = PushEngine(history, self._policy, counters, log, self._evict, self._keep)
        self._saved: dict[str, Position] = {}
        self._save_lock = threading.Lock()
        self.evicted: list[dict[str, object]] = []  # replaced as a whole, so that any thread may read it

    @property
    def running(self) -> bool:
        """Whether the thread that pushes is alive."""
        return self._engine.running

    def all(self) -> dict[str, PushClient]:
        """The clients that have a slot, by their URL as each of them spelled it."""
        return {client.client_url: client for client in self._registry.clients()}

    def free_slots(self) -> int:
        """How many slots are free."""
        return self._registry.free_slots()

    def restore(self) -> None:
        """Go on with the clients that are in the registry topic. Raises KafkaError."""
        for registration in self._topic.read():
            self._restore(registration)

    def register(self, client_url: str, token: str) -> bool:
        """Give a client a slot; False when it had one.

        Raises Full, NotYours, KafkaError when the registration cannot be saved, PushError or OSError when no push may
        go to the client's address or the client does not echo the challenge, and StepTimeout.
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
        start = Start(cursor, Position(self._topic_reader.ends()), self._topic_reader.generation)
        client = self._registry.add(client_url, lambda: self._engine.add(client_url, _hash(token), start))
        if client is None:
            return False
        try:
            self._save(client, wait=True)
        except KafkaError:
            self._registry.remove(client_url)
            self._forget(client_url)  # the broker may have it all the same
            raise
        self._log.info("registered", client_url=client_url, available_slots=self._registry.free_slots())
        return True

    def deregister(self, client_url: str, token: str) -> bool:
        """Free a client's slot; False when it had none. Raises NotYours."""
        client = self._owned(client_url, token)
        if client is None or not self._registry.remove(client_url, only=client):
            return False
        self._forget(client.client_url)
        self._log.info("deregistered", client_url=client.client_url, available_slots=self._registry.free_slots())
        return True

    def save_positions(self) -> None:
        """Save how far each client has come, where that changed."""
        clients = self.all()
        with self._save_lock:
            self._saved = {url: saved for url, saved in self._saved.items() if url in clients}
        for client_url, client in clients.items():
            if client.position != self._saved.get(client_url):
                self._save(client, wait=False)

    def drain(self, deadline: float) -> None:
        """Wait until every client has everything, at most until `deadline` (monotonic seconds), and stop pushing."""
        clients = self.all()
        while time.monotonic() < deadline and not all(client.drained() for client in clients.values()):
            time.sleep(0.02)
        behind = sorted(url for url, client in clients.items() if not client.drained())
        if behind:
            self._log.warning("stopping before these clients had all; the next start goes on there", clients=behind)
        self._engine.close()

    def close(self) -> None:
        """Save how far each client has come and leave the broker."""
        self.save_positions()
        self._topic.close()

    def _restore(self, registration: Registration) -> None:
        """Go on with one client. Records from before the history are too old to be sent."""
        starts, ends = self._topic_reader.starts, self._topic_reader.next_offsets
        # An offset beyond the end is one of a topic that was replaced meanwhile.
        next_offsets = {p: offset for p, offset in registration.next_offsets.items() if offset <= ends.get(p, 0)}
        merging = registration.merging
        if merging and any(offset > ends.get(p, 0) for p, offset in merging.items()):
            merging = None
        if merging and any(next_offsets.get(p, 0) < min(start, merging.get(p, 0)) for p, start in starts.items()):
            # The history lacks some records of the merged counts, so these cannot be made again as they were. Nor may
            # the other records be sent one by one, because some of the merged counts may have arrived.
            starts = {p: max(start, merging.get(p, 0)) for p, start in starts.items()}
            next_offsets, merging = {p: max(next_offsets.get(p, 0), end) for p, end in merging.items()}, None
        # A difference of offsets, so it includes the markers between transactions.
        skipped = sum(
            max(0, start - registration.next_offsets.get(partition, 0)) for partition, start in starts.items()
        )
        position, history = Position(next_offsets, merging), self._history
        start = Start(history.start, position, self._topic_reader.generation, history.end)
        url, token_hash = registration.client_url, registration.token_hash
        try:
            added = self._registry.add(url, lambda: self._engine.add(url, token_hash, start))
        except Full:
            self._log.warning("no slot is left for a client from before", client_url=url)
        except ValueError as error:
            self._log.warning("the registry topic has a client that cannot be one", client_url=url, reason=error)
            self._forget(url)
        else:
            if added:
                self._counters.add("expired", skipped)
            else:
                self._forget(url)  # registered in two spellings by an earlier version; one of them goes on

    def _owned(self, client_url: str, token: str) -> PushClient | None:
        """The client if it has a slot. Raises NotYours when it registered with another token."""
        client = self._registry.get(client_url)
        if client and client.token_hash and not secrets.compare_digest(client.token_hash, _hash(token)):
            raise NotYours
        return client

    def _has_slot(self, client: PushClient) -> bool:
        return self._registry.get(client.client_url) is client

    def _save(self, client: PushClient, wait: bool) -> None:
        """Save how far a client has come. Raises KafkaError."""
        client_url = client.client_url
        with self._save_lock:  # so that an older position never follows a newer one
            position = client.position
            self._saved[client_url] = position
            merging = None if position.merging is None else dict(position.merging)
            registration = Registration(client_url, dict(position.next_offsets), merging, client.token_hash)
            wait_for_broker = self._topic.save(registration)
            if not self._has_slot(client):
                self._forget(client_url)  # it left meanwhile; the record just written would bring it back
        if wait:
            wait_for_broker()

    def _keep(self, client: PushClient) -> None:
        if self._has_slot(client):
            self._save(client, wait=True)

    def _evict(self, client: PushClient, reason: str) -> None:
        client_url = client.client_url
        if self._registry.remove(client_url, only=client):
            self._forget(client_url)
            self._counters.add("evicted")
            shown, at_ms = reason[:MAX_REASON_CHARACTERS], round(time.time() * 1000)
            noted = {"client_url": client_url, "reason": shown, "at_ms": at_ms}
            self.evicted = [*self.evicted, noted][-MAX_EVICTED:]
            self._log.warning("evicted", client_url=client_url, reason=reason)

    def _forget(self, client_url: str) -> None:
        try:
            self._topic.forget(client_url)
        except KafkaError as error:
            self._log.warning(
                "could not record that a client has left; after a restart it is evicted",
                client_url=client_url, reason=error,
            )  # fmt: skip


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest() if token else ""
