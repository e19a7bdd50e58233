"""Which clients a subscriber serves, never more than its capacity, kept in a compacted Kafka topic.

One record per registration, keyed `<cluster topic>/<subscriber>/<client_url>`:
`{"client_url", "next_offsets": {"<partition>": offset}, "merging"?, "token_hash"?}`, as in Registration.
A tombstone (null) ends a registration.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec
from kafka.errors import KafkaError

from emostream.broker import SentRecord, consumer, partitions, registry_producer
from emostream.settings import REGISTRY_TOPIC, Settings

SAVE_SECONDS = 5.0
READ_SECONDS = 10.0


class Full(Exception):
    """No slot is free."""


class NotYours(Exception):
    """The client was registered with another token."""


class Closable(Protocol):
    """What a registry holds for each client."""

    def close(self) -> None:
        """Stop serving the client."""


Client = TypeVar("Client", bound=Closable)


class Registry(Generic[Client]):
    """Client URL → what serves it. Every method may be called from any thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}

    def add(self, client_url: str, make: Callable[[], Client]) -> bool:
        """Give a client a slot; False where it had one already. Raises Full, or what `make` raises."""
        with self._lock:
            if client_url in self._clients:
                return False
            if len(self._clients) >= self._capacity:
                raise Full(f"all {self._capacity} slots are taken")
            # Within the lock: a slot is never promised to two, and `make` only starts a thread.
            self._clients[client_url] = make()
            return True

    def remove(self, client_url: str, only: Client | None = None) -> bool:
        """Free a client's slot and stop serving it; False where it had none, or where it is not `only`."""
        with self._lock:
            client = self._clients.get(client_url)
            if client is None or only not in (None, client):
                return False
            del self._clients[client_url]
        client.close()
        return True

    def get(self, client_url: str) -> Client | None:
        """What serves a client; None where it has no slot."""
        with self._lock:
            return self._clients.get(client_url)

    def clients(self) -> dict[str, Client]:
        """A copy: whoever goes through it holds no lock."""
        with self._lock:
            return dict(self._clients)

    def free_slots(self) -> int:
        """Slots that are not taken."""
        with self._lock:
            return self._capacity - len(self._clients)


@dataclass(frozen=True)
class Registration:
    """A client and, per partition of the cluster topic, the offset after the last record it acknowledged.

    `merging`: what comes then, up to these offsets, is being sent as merged counts. `token_hash`: of the token without
    which it cannot be deregistered; empty where there is none.
    """

    client_url: str
    next_offsets: Mapping[int, int]
    merging: Mapping[int, int] | None = None
    token_hash: str = ""


class _Value(msgspec.Struct, omit_defaults=True):
    client_url: str
    next_offsets: dict[int, int]
    merging: dict[int, int] | None = None
    token_hash: str = ""


class RegistryTopic:
    """The registrations of one subscriber in REGISTRY_TOPIC."""

    def __init__(self, settings: Settings, cluster_topic: str, subscriber: int) -> None:
        self._settings = settings
        self._prefix = f"{cluster_topic}/{subscriber}/"
        self._producer = registry_producer(settings)

    def read(self) -> list[Registration]:
        """All registrations, as of now. Raises KafkaError."""
        reader = consumer(self._settings, None)
        try:
            assigned = partitions(REGISTRY_TOPIC)
            reader.assign(assigned)
            reader.seek_to_beginning()
            ends = reader.end_offsets(assigned)
            found: dict[str, Registration] = {}
            deadline = time.monotonic() + READ_SECONDS
            while any(reader.position(tp) < end for tp, end in ends.items()):
                if time.monotonic() > deadline:
                    raise KafkaError(f"{REGISTRY_TOPIC} could not be read to its end in {READ_SECONDS:g} s")
                for records in reader.poll(timeout_ms=500).values():
                    for record in records:
                        key = (record.key or b"").decode(errors="replace")
                        if not key.startswith(self._prefix):
                            continue
                        try:
                            value = msgspec.json.decode(record.value or b"", type=_Value)
                            found[key] = Registration(
                                value.client_url, value.next_offsets, value.merging, value.token_hash
                            )
                        except msgspec.MsgspecError:  # a tombstone, or nothing that we wrote
                            found.pop(key, None)
            return list(found.values())
        finally:
            reader.close(autocommit=False)

    def save(self, registration: Registration) -> Callable[[], object]:
        """Write a registration; calling what is returned waits until the broker has it. Both raise KafkaError."""
        merging = None if registration.merging is None else dict(registration.merging)
        value = _Value(registration.client_url, dict(registration.next_offsets), merging, registration.token_hash)
        sent = self._send(registration.client_url, msgspec.json.encode(value))
        return lambda: sent.get(timeout=SAVE_SECONDS)

    def forget(self, client_url: str) -> None:
        """End a registration. Not waited for: where it gets lost the client is evicted after the next start."""
        self._send(client_url, None)

    def close(self) -> None:
        """Send what is left, bounded."""
        self._producer.close(timeout=SAVE_SECONDS)

    def _send(self, client_url: str, value: bytes | None) -> SentRecord:
        return self._producer.send(REGISTRY_TOPIC, key=(self._prefix + client_url).encode(), value=value)
