"""The registered clients of a subscriber: they register, deregister, are evicted, or are restored after a restart."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time

import msgspec
from kafka.errors import KafkaError

from emostream.deliver.push.allowed_networks import AllowedNetworks, resolve
from emostream.deliver.push.client import PushClient
from emostream.deliver.push.engine import PushEngine
from emostream.deliver.push.sender import PushPolicy
from emostream.deliver.push.slow_clients import MERGE_AFTER_BATCHES
from emostream.deliver.registry import Full, InAnotherRoom, NotYours, Registration, Registry, RegistryTopic
from emostream.deliver.rooms import DEFAULT_ROOM, Rooms
from emostream.deliver.topic_reader import TopicReader
from emostream.http.client import Target
from emostream.metrics.counters import Metrics
from emostream.process import Log, within
from emostream.roles import Place
from emostream.settings import Settings, networks

RESOLVE_SECONDS = 3.0
# How many evictions GET /status shows; the log has all of them.
MAX_EVICTED = 10
MAX_REASON_CHARACTERS = 200


class RegisteredClients:
    """The slots of a subscriber, the engine that pushes to their clients, and the topic that remembers them."""

    def __init__(
        self, settings: Settings, rooms: Rooms, topic_reader: TopicReader, counters: Metrics, log: Log
    ) -> None:
        """Connects to the broker. Raises KafkaError."""
        self._settings = settings
        self._rooms = rooms
        self._topic_reader = topic_reader
        self._counters = counters
        self._log = log
        cluster_topic = settings.required_cluster_topic()
        self._policy = PushPolicy(
            cluster_topic, settings.subscriber, MERGE_AFTER_BATCHES * settings.batch_seconds,
            settings.max_age_seconds, settings.evict_after_seconds,
            AllowedNetworks(networks("CLIENT_NETWORKS", settings.client_networks)), settings.push_key,
        )  # fmt: skip
        self._registry: Registry[PushClient] = Registry(settings.max_clients)
        self._topic = RegistryTopic(settings, cluster_topic, settings.subscriber)
        self._engine = PushEngine(self._policy, counters, log, self._evict, self._save)
        rooms.on_append(self._engine.wake)
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
        """Serve the clients that are in the registry topic again. Raises KafkaError."""
        for registration in self._topic.read():
            self._restore(registration)

    def register(self, client_url: str, token: str, room: str) -> bool:
        """Give a client a slot; False when it had one.

        Raises Full, NotYours, InAnotherRoom, KafkaError when the registration cannot be saved, and PushError, OSError
        or StepTimeout when no push may go to the client's address or the client does not echo the challenge.
        """
        if client := self._owned(client_url, token):
            if client.registration.room != room:
                raise InAnotherRoom
            return False
        target = Target.parse(client_url)
        within(RESOLVE_SECONDS, "resolve", lambda: self._policy.networks.check(target.host, resolve(target.host, 0)))
        if self._settings.verify_clients:
            if not self._registry.free_slots():
                raise Full(f"all {self._settings.max_clients} slots are taken")
            self._engine.verify(client_url, secrets.token_urlsafe())
        history = self._rooms.open(room).history
        client = None
        try:
            cursor, generation = history.end, self._topic_reader.generation
            registration = Registration(client_url, self._topic_reader.ends(), token_hash=_hash(token), room=room)
            client = self._registry.add(client_url, lambda: self._engine.add(history, registration, cursor, generation))
        finally:
            if client is None:
                self._rooms.close(room)
        if client is None:
            return self.register(client_url, token, room)  # it got a slot meanwhile, perhaps in another room
        try:
            self._save(client)
        except KafkaError:
            self._remove(client)  # with a tombstone, because the broker may have saved it all the same
            raise
        self._log.info("registered", client_url=client_url, available_slots=self._registry.free_slots())
        return True

    def deregister(self, client_url: str, token: str) -> bool:
        """Free a client's slot; False when it had none. Raises NotYours."""
        client = self._owned(client_url, token)
        if client is None or not self._remove(client):
            return False
        self._log.info("deregistered", client_url=client.client_url, available_slots=self._registry.free_slots())
        return True

    def save_positions(self) -> None:
        """Save each registration that has changed."""
        for client in self._registry.clients():
            if client.registration != client.saved:
                self._save(client, wait=False)

    def announce(self, place: Place) -> None:
        """Say where this subscriber is until `withdraw`."""
        self._topic.announce(place)

    def withdraw(self) -> None:
        """Say that this subscriber stops, so that nobody new comes."""
        self._topic.withdraw()

    def drain(self, deadline: float) -> None:
        """Wait until every client has everything, or until `deadline` (monotonic seconds). Then stop pushing."""
        clients = self.all()
        while time.monotonic() < deadline and not all(client.drained() for client in clients.values()):
            time.sleep(0.02)
        behind = sorted(url for url, client in clients.items() if not client.drained())
        if behind:
            self._log.warning("stopped before these clients had all; the next start continues there", clients=behind)
        self._engine.close()

    def close(self) -> None:
        """Save all registrations and leave the broker."""
        self.save_positions()
        self._topic.close()

    def _restore(self, registration: Registration) -> None:
        """Serve one client again. It gets no records from before the history: they are too old."""
        starts, ends = self._topic_reader.starts, self._topic_reader.next_offsets
        # If an offset is beyond the end of its partition, the topic was replaced meanwhile.
        next_offsets = {p: offset for p, offset in registration.next_offsets.items() if offset <= ends.get(p, 0)}
        merging = registration.merging
        if merging and any(offset > ends.get(p, 0) for p, offset in merging.items()):
            merging = None
        if merging and any(next_offsets.get(p, 0) < min(start, merging.get(p, 0)) for p, start in starts.items()):
            # Skip all records of the merged counts. The history has only some of them, so the same merged counts cannot
            # be made again. And single records could repeat a merged count that has arrived.
            starts = {p: max(start, merging.get(p, 0)) for p, start in starts.items()}
            next_offsets, merging = {p: max(next_offsets.get(p, 0), end) for p, end in merging.items()}, None
        # The markers that end transactions have offsets too, so this number is a little too high.
        skipped = sum(max(0, start - registration.next_offsets.get(p, 0)) for p, start in starts.items())
        checked = msgspec.structs.replace(registration, next_offsets=next_offsets, merging=merging)
        url, room, generation = registration.client_url, registration.room, self._topic_reader.generation
        history, added = self._rooms.open(room).history, None
        try:
            added = self._registry.add(
                url, lambda: self._engine.add(history, checked, history.start, generation, repeats_until=history.end)
            )
        except Full:
            self._log.warning("no slot is left for a client from before", client_url=url)
        except ValueError as error:
            self._log.warning("the registry topic has a client that cannot be one", client_url=url, reason=error)
            self._forget(url)
        else:
            if added is None:
                self._forget(url)  # an earlier version saved two spellings of its URL; one of them is enough
            elif room == DEFAULT_ROOM:  # of another room nobody knows how many of the skipped records were its own
                self._counters.add("expired", skipped)
        if added is None:
            self._rooms.close(room)

    def _owned(self, client_url: str, token: str) -> PushClient | None:
        """The client if it has a slot. Raises NotYours when it registered with another token."""
        client = self._registry.get(client_url)
        token_hash = client.registration.token_hash if client else ""
        if token_hash and not secrets.compare_digest(token_hash, _hash(token)):
            raise NotYours
        return client

    def _save(self, client: PushClient, wait: bool = True) -> None:
        """Save a client's registration. Raises KafkaError."""
        with self._save_lock:  # so that an older registration never follows a newer one
            client.saved = client.registration
            wait_for_broker = self._topic.save(client.saved)
            if self._registry.get(client.client_url) is not client:
                self._forget(client.client_url)  # it has left meanwhile; what was just saved would bring it back
        if wait:
            wait_for_broker()

    def _evict(self, client: PushClient, reason: str) -> None:
        client_url = client.client_url
        if self._remove(client):
            self._counters.add("evicted")
            at_ms = round(time.time() * 1000)
            noted = {"client_url": client_url, "reason": reason[:MAX_REASON_CHARACTERS], "at_ms": at_ms}
            self.evicted = [*self.evicted, noted][-MAX_EVICTED:]
            self._log.warning("evicted", client_url=client_url, reason=reason)

    def _remove(self, client: PushClient) -> bool:
        """Free a client's slot; False when it has none any more."""
        if not self._registry.remove(client.client_url, only=client):
            return False
        self._rooms.close(client.registration.room)
        self._forget(client.client_url)
        return True

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
