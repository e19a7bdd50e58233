"""Which clients a subscriber serves: its slots in memory, and its registrations in a compacted Kafka topic.

The topic has one record per registration. Its key is `<cluster topic>/<subscriber>/<client_url>`, its value a
Registration as JSON. A tombstone (null) ends a registration. A subscriber also says there where it is
(announcements.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import msgspec
from kafka.errors import KafkaError

from emostream import announcements
from emostream.broker import SentRecord, registry_producer
from emostream.consumers import AssignedConsumer
from emostream.http.client import Target
from emostream.process import Log
from emostream.roles import Place
from emostream.settings import REGISTRY_TOPIC, Settings

SAVE_SECONDS = 5.0
READ_SECONDS = 10.0


class Full(Exception):
    """No slot is free."""


class NotYours(Exception):
    """The client was registered with another token."""


class InAnotherRoom(Exception):
    """The client was registered for another room."""


class Closable(Protocol):
    """What a registry holds for each client."""

    def close(self) -> None:
        """Stop serving the client."""


Client = TypeVar("Client", bound=Closable)


class Registry(Generic[Client]):
    """The slots: client URL → the object that serves the client. Any thread may call any method.

    Two spellings of one URL are one client, so the keys are normal URLs (http/client.py).
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}

    def add(self, client_url: str, make: Callable[[], Client]) -> Client | None:
        """Give a client a slot, and what `make` returns; None when it had one. Raises Full, or what `make` raises."""
        url = normal_url(client_url)
        with self._lock:
            if url in self._clients:
                return None
            if len(self._clients) >= self._capacity:
                raise Full(f"all {self._capacity} slots are taken")
            # The lock is still held, so that no slot goes to two clients. `make` does not block.
            self._clients[url] = client = make()
            return client

    def remove(self, client_url: str, only: Client | None = None) -> bool:
        """Free a client's slot and close what serves it. False when that is not `only`, or the client has no slot."""
        url = normal_url(client_url)
        with self._lock:
            client = self._clients.get(url)
            if client is None or only not in (None, client):
                return False
            del self._clients[url]
        client.close()
        return True

    def get(self, client_url: str) -> Client | None:
        """The object that serves a client; None when it has no slot."""
        url = normal_url(client_url)
        with self._lock:
            return self._clients.get(url)

    def clients(self) -> list[Client]:
        """A copy, so that the caller does not need the lock."""
        with self._lock:
            return list(self._clients.values())

    def free_slots(self) -> int:
        """The capacity without the slots that are taken."""
        with self._lock:
            return self._capacity - len(self._clients)


def normal_url(client_url: str) -> str:
    """The one spelling of all URLs of a client. Raises ValueError."""
    return Target.parse(client_url).normal_url


class Registration(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client, and how far it has come: per partition, the offset after the last record that needs no more work.

    `merging`: the records from there up to these offsets are being sent as merged counts. Some may have arrived.
    `token_hash`: the hash of the token that is needed to deregister; empty when there is none.
    `room`: the room whose counts it gets.
    """

    client_url: str
    next_offsets: dict[int, int]
    merging: dict[int, int] | None = None
    token_hash: str = ""
    room: str = ""


class RegistryTopic:
    """The registrations of one subscriber in REGISTRY_TOPIC."""

    def __init__(self, settings: Settings, cluster_topic: str, subscriber: int) -> None:
        self._settings = settings
        self._prefix = f"{cluster_topic}/{subscriber}/"
        self._producer = registry_producer(settings)
        self._announcing: threading.Thread | None = None
        self._stopping = threading.Event()

    def read(self) -> list[Registration]:
        """All registrations at this moment. Raises KafkaError."""
        reader = AssignedConsumer(self._settings, REGISTRY_TOPIC, None, Log("deliver"))
        try:
            reader.client.seek_to_beginning()
            ends = reader.client.end_offsets(reader.assigned)
            found: dict[tuple[str, int], tuple[int, Registration]] = {}
            deadline = time.monotonic() + READ_SECONDS
            while any(reader.client.position(tp) < end for tp, end in ends.items() if reader.reads(tp)):
                if time.monotonic() > deadline:
                    raise KafkaError(f"{REGISTRY_TOPIC} could not be read to its end in {READ_SECONDS:g} s")
                for records in reader.poll(500).values():
                    for record in records:
                        key = (record.key or b"").decode(errors="replace")
                        if not key.startswith(self._prefix):
                            continue
                        at = key, record.partition
                        try:
                            decoded = msgspec.json.decode(record.value or b"", type=Registration)
                            found[at] = record.timestamp, decoded
                        except msgspec.MsgspecError:  # a tombstone, or something that we did not write
                            found.pop(at, None)
            # When the topic got more partitions, a client's key may have moved to another one. The newest counts.
            by_age = sorted(found.items(), key=lambda item: item[1][0])
            return list({key: registration for (key, _), (_, registration) in by_age}.values())
        finally:
            reader.close()

    def save(self, registration: Registration) -> Callable[[], object]:
        """Write a registration. Call the result to wait for the broker. Both may raise KafkaError."""
        value = msgspec.json.encode(registration)
        sent: SentRecord = self._producer.send(REGISTRY_TOPIC, key=self._key(registration.client_url), value=value)
        return lambda: sent.get(timeout=SAVE_SECONDS)

    def forget(self, client_url: str) -> None:
        """End a registration, without waiting. If this gets lost, the client is evicted some time after a restart."""
        self._end(self._key(client_url))

    def announce(self, place: Place) -> None:
        """Say where this subscriber is until `withdraw`, in a thread: without its topic a send waits for seconds."""
        self._announcing = threading.Thread(target=self._keep_announcing, args=(place,), name="announce", daemon=True)
        self._announcing.start()

    def withdraw(self) -> None:
        """Say that this subscriber stops, without waiting."""
        self._stopping.set()

    def _keep_announcing(self, place: Place) -> None:
        key, value = announcements.key_of(place), msgspec.json.encode(place)
        while not self._stopping.is_set():
            with suppress(KafkaError):  # the topic watch says what is wrong
                self._producer.send(REGISTRY_TOPIC, key=key, value=value)
            self._stopping.wait(announcements.ANNOUNCE_SECONDS)
        with suppress(KafkaError):
            self._end(key)

    def close(self) -> None:
        """Send what is left, for at most SAVE_SECONDS; a last announcement may take as long."""
        if self._announcing:
            self._announcing.join(SAVE_SECONDS)
        self._producer.close(timeout=SAVE_SECONDS)

    def _key(self, client_url: str) -> bytes:
        return (self._prefix + client_url).encode()

    def _end(self, key: bytes) -> None:
        # In every partition: it may have been saved in another one, before the topic got more of them.
        for partition in self._producer.partitions_for(REGISTRY_TOPIC):
            self._producer.send(REGISTRY_TOPIC, key=key, value=None, partition=partition)
