"""GET /status of every subscriber → which subscribers are alive, where they are, and how much capacity they have.

The app keeps this up to date and serves it as GET /subscribers. Clients ask the app; if it does not help, they ask
each subscriber.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
import requests
from msgspec import Meta

from emostream import roles
from emostream.settings import Settings

# The first number is the time to connect, the second the time to answer. A subscriber on this machine answers in
# milliseconds, so one that hangs is noticed soon.
TIMEOUT_SECONDS = (1.0, 1.0)
# A client is in less of a hurry, and there may be a network in between.
CLIENT_TIMEOUT_SECONDS = (2.0, 5.0)
FRESH_SECONDS = 1.0

T = TypeVar("T")


class _Status(msgspec.Struct):
    """What is read of GET /status. The contract promises only `available_slots`."""

    available_slots: Annotated[int, Meta(ge=0)]
    stream_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    streams: Annotated[int, Meta(ge=0)] | None = None
    available_streams: Annotated[int, Meta(ge=0)] | None = None
    evicted: Any = ()  # a foreign subscriber may mean something else by it


class Eviction(msgspec.Struct, frozen=True):
    """A client that lost its slot, the reason, and the time in Unix milliseconds."""

    client_url: str
    reason: str
    at_ms: int


class SubscriberEntry(msgspec.Struct, frozen=True):
    """One entry of GET /subscribers. `cluster` and `subscriber` count from 1; an unknown value is None, or 0 slots."""

    url: str
    stream_url: str | None = None
    cluster: int | None = None
    subscriber: int | None = None
    alive: bool = True
    available_slots: int = 0
    available_streams: int | None = None
    streams: int | None = None


class SubscriberList(msgspec.Struct, frozen=True):
    """The answer of GET /subscribers: every subscriber, the least loaded first, the dead last."""

    subscribers: list[SubscriberEntry]


class SubscriberState(msgspec.Struct, frozen=True):
    """What a subscriber's last GET /status said about it."""

    cluster: int
    subscriber: int
    port: int
    alive: bool = False
    available_slots: int = 0
    stream_port: int | None = None
    streams: int | None = None
    available_streams: int | None = None
    evicted: tuple[Eviction, ...] = ()

    def entry(self, host: str) -> SubscriberEntry:
        """Return its entry in GET /subscribers, with addresses at `host`."""
        stream_url = f"http://{host}:{self.stream_port}/stream" if self.stream_port else None
        return SubscriberEntry(
            f"http://{host}:{self.port}", stream_url, self.cluster, self.subscriber,
            self.alive, self.available_slots, self.available_streams, self.streams,
        )  # fmt: skip


def direct_session() -> requests.Session:
    """A session that uses no proxies and no credentials of the environment."""
    session = requests.Session()
    session.trust_env = False
    return session


def subscribers(settings: Settings) -> list[SubscriberState]:
    """Every subscriber that ./start.sh runs. None has been asked yet."""
    return [SubscriberState(role.cluster, role.number, role.port) for role in roles.subscribers(settings)]


def ask(
    session: requests.Session, subscriber: SubscriberState, host: str, timeout_seconds: tuple[float, float]
) -> SubscriberState:
    """Return a subscriber's state as it is now. One that gives no answer, or something else than a status, is dead."""
    status = _get(session, f"http://{host}:{subscriber.port}/status", timeout_seconds, _Status)
    if status is None:
        return SubscriberState(subscriber.cluster, subscriber.subscriber, subscriber.port)
    try:
        status.evicted = msgspec.convert(status.evicted, tuple[Eviction, ...])
    except msgspec.ValidationError:
        status.evicted = ()
    return msgspec.structs.replace(subscriber, alive=True, **msgspec.structs.asdict(status))


def ask_each(settings: Settings, session: requests.Session) -> list[SubscriberEntry]:
    """Ask every subscriber, one after the other."""
    host = settings.client_host
    found = [ask(session, subscriber, host, CLIENT_TIMEOUT_SECONDS) for subscriber in subscribers(settings)]
    return [subscriber.entry(host) for subscriber in least_loaded_first(found)]


def ask_app(app_url: str, session: requests.Session) -> list[SubscriberEntry]:
    """Ask the app for its list. It is empty when the app does not answer, or has no such list."""
    found = _get(session, f"{app_url}/subscribers", CLIENT_TIMEOUT_SECONDS, SubscriberList)
    return found.subscribers if found else []


def _get(session: requests.Session, url: str, timeout_seconds: tuple[float, float], kind: type[T]) -> T | None:
    """Return what a URL answers, as `kind`; None if it answers nothing, or something else."""
    try:
        answer = session.get(url, timeout=timeout_seconds)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=kind)
    except (requests.RequestException, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def least_loaded_first(found: Iterable[SubscriberState]) -> list[SubscriberState]:
    """Sort: fewest streams first, with equal streams most free slots first; the dead last."""
    return sorted(found, key=lambda s: (not s.alive, s.streams or 0, -s.available_slots, s.port))


class Directory:
    """The state of every subscriber, kept up to date in the background, so that no caller waits.

    One thread for each subscriber asks it every FRESH_SECONDS. A subscriber that hangs delays only its own state.
    """

    def __init__(self, settings: Settings) -> None:
        self._host = settings.client_host
        self._known = {subscriber.port: subscriber for subscriber in subscribers(settings)}
        self._closed = threading.Event()
        for port in self._known:
            threading.Thread(target=self._keep_asking, args=(port,), name=f"ask {port}", daemon=True).start()

    def now(self) -> list[SubscriberState]:
        """Return every subscriber, the least loaded first."""
        return least_loaded_first(self._known.values())

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def _keep_asking(self, port: int) -> None:
        session = direct_session()
        while True:
            self._known[port] = ask(session, self._known[port], self._host, TIMEOUT_SECONDS)
            if self._closed.wait(FRESH_SECONDS):
                return
