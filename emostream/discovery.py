"""GET /status of every subscriber → which of them are alive, where they are, and how much room they have.

The app keeps that up to date for GET /subscribers; clients ask it, and where there is no app, each subscriber.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated

import msgspec
import requests
from msgspec import Meta

from emostream import roles
from emostream.settings import Settings

# To connect, and to answer. A subscriber answers in milliseconds; one that hangs is to be noticed soon.
TIMEOUT_SECONDS = (1.0, 1.0)
# A client has time, and a network between.
CLIENT_TIMEOUT_SECONDS = (2.0, 5.0)
FRESH_SECONDS = 1.0


class _Status(msgspec.Struct):
    """What a client needs of GET /status; only `available_slots` is promised."""

    available_slots: Annotated[int, Meta(ge=0)]
    stream_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    streams: Annotated[int, Meta(ge=0)] | None = None
    available_streams: Annotated[int, Meta(ge=0)] | None = None


class Eviction(msgspec.Struct, frozen=True):
    """A client that has lost its slot, why, and when, in Unix milliseconds."""

    client_url: str
    reason: str
    at_ms: int


class _Evicted(msgspec.Struct):
    """What GET /status of ours tells besides."""

    evicted: tuple[Eviction, ...] = ()


class Listed(msgspec.Struct, frozen=True):
    """One entry of GET /subscribers. `cluster` and `subscriber` count from 1; what is not known is None, or 0 slots."""

    url: str
    stream_url: str | None = None
    cluster: int | None = None
    subscriber: int | None = None
    alive: bool = True
    available_slots: int = 0
    available_streams: int | None = None
    streams: int | None = None


class Listing(msgspec.Struct, frozen=True):
    """The answer of GET /subscribers: every subscriber, the least loaded first, the dead last."""

    subscribers: list[Listed]


class Subscriber(msgspec.Struct, frozen=True):
    """What its last answer has told of a subscriber."""

    cluster: int
    subscriber: int
    port: int
    alive: bool = False
    available_slots: int = 0
    stream_port: int | None = None
    streams: int | None = None
    available_streams: int | None = None
    evicted: tuple[Eviction, ...] = ()

    def listed(self, host: str) -> Listed:
        """As in GET /subscribers, with addresses at `host`."""
        return Listed(
            url=f"http://{host}:{self.port}",
            stream_url=f"http://{host}:{self.stream_port}/stream" if self.stream_port else None,
            cluster=self.cluster,
            subscriber=self.subscriber,
            alive=self.alive,
            available_slots=self.available_slots,
            available_streams=self.available_streams,
            streams=self.streams,
        )


def subscribers(settings: Settings) -> list[Subscriber]:
    """Every subscriber that ./start.sh runs, not asked yet."""
    return [Subscriber(role.cluster, role.number, role.port) for role in roles.subscribers(settings)]


def ask(
    session: requests.Session, subscriber: Subscriber, host: str, timeout_seconds: tuple[float, float]
) -> Subscriber:
    """A subscriber as it is now; one that does not answer, or not with a status, is not alive."""
    unknown = Subscriber(subscriber.cluster, subscriber.subscriber, subscriber.port)
    try:
        answer = session.get(f"http://{host}:{subscriber.port}/status", timeout=timeout_seconds)
        answer.raise_for_status()
        status = msgspec.json.decode(answer.content, type=_Status)
    except (requests.RequestException, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return unknown
    with suppress(msgspec.ValidationError):  # somebody else's subscriber may mean something else by it
        unknown = msgspec.structs.replace(unknown, evicted=msgspec.json.decode(answer.content, type=_Evicted).evicted)
    return msgspec.structs.replace(unknown, alive=True, **msgspec.structs.asdict(status))


def ask_each(settings: Settings, session: requests.Session) -> list[Listed]:
    """Every subscriber as it is now, asked one after the other."""
    host = settings.client_host
    found = [ask(session, subscriber, host, CLIENT_TIMEOUT_SECONDS) for subscriber in subscribers(settings)]
    return [subscriber.listed(host) for subscriber in least_loaded_first(found)]


def ask_app(app_url: str, session: requests.Session) -> list[Listed]:
    """GET /subscribers of the app; none where it does not answer, or has no such list."""
    try:
        answer = session.get(f"{app_url}/subscribers", timeout=CLIENT_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=Listing).subscribers
    except (requests.RequestException, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


def least_loaded_first(found: Iterable[Subscriber]) -> list[Subscriber]:
    """Those with the fewest streams first, of them those with the most free slots; the dead last."""
    return sorted(found, key=lambda s: (not s.alive, s.streams or 0, -s.available_slots, s.port))


class Directory:
    """What is known of every subscriber, kept up to date in the background: whoever asks never waits.

    Each is asked every FRESH_SECONDS, and by a thread of its own, so that one that hangs makes only itself out of date.
    """

    def __init__(self, settings: Settings) -> None:
        self._host = settings.client_host
        self._known = {subscriber.port: subscriber for subscriber in subscribers(settings)}
        self._closed = threading.Event()
        for subscriber in list(self._known.values()):
            threading.Thread(
                target=self._follow, args=(subscriber,), name=f"ask {subscriber.port}", daemon=True
            ).start()

    def now(self) -> list[Subscriber]:
        """Every subscriber, the least loaded first."""
        return least_loaded_first(self._known.values())

    def close(self) -> None:
        """Ask nobody any more."""
        self._closed.set()

    def _follow(self, subscriber: Subscriber) -> None:
        session = requests.Session()
        session.trust_env = False  # no proxies and no credentials from the environment
        while True:
            self._known[subscriber.port] = ask(session, subscriber, self._host, TIMEOUT_SECONDS)
            if self._closed.wait(FRESH_SECONDS):
                return
