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
from emostream.roles import Role
from emostream.settings import Settings

# The time to connect, and the time to answer. A subscriber on this machine answers in milliseconds, or it hangs.
TIMEOUT_SECONDS = (1.0, 1.0)
CLIENT_TIMEOUT_SECONDS = (2.0, 5.0)  # between a client and a subscriber may be a network
ASK_AGAIN_SECONDS = 1.0

T = TypeVar("T")


class Eviction(msgspec.Struct, frozen=True):
    """A client that lost its slot, the reason, and the time in Unix milliseconds."""

    client_url: str
    reason: str
    at_ms: int


class SubscriberStatus(msgspec.Struct):
    """What is read of GET /status. The contract promises only `available_slots`."""

    available_slots: Annotated[int, Meta(ge=0)]
    stream_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    streams: Annotated[int, Meta(ge=0)] | None = None
    available_streams: Annotated[int, Meta(ge=0)] | None = None
    evicted: Any = ()  # a subscriber of somebody else may use this name for something else

    def evictions(self) -> tuple[Eviction, ...]:
        """The subscriber's last evictions."""
        try:
            return msgspec.convert(self.evicted, tuple[Eviction, ...])
        except msgspec.ValidationError:
            return ()


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


def entry(role: Role, status: SubscriberStatus | None, host: str) -> SubscriberEntry:
    """Return the entry of a subscriber, with addresses at `host`. Without a status it is dead."""
    url = f"http://{host}:{role.port}"
    if status is None:
        return SubscriberEntry(url, cluster=role.cluster, subscriber=role.number, alive=False)
    stream_url = f"http://{host}:{status.stream_port}/stream" if status.stream_port else None
    return SubscriberEntry(
        url, stream_url, role.cluster, role.number,
        True, status.available_slots, status.available_streams, status.streams,
    )  # fmt: skip


def least_loaded_first(found: Iterable[SubscriberEntry]) -> list[SubscriberEntry]:
    """Sort: fewest streams first, with equal streams most free slots first; the dead last."""
    return sorted(found, key=lambda one: (not one.alive, one.streams or 0, -one.available_slots, one.url))


def direct_session() -> requests.Session:
    """Return a session that takes no proxies and no credentials from the environment."""
    session = requests.Session()
    session.trust_env = False
    return session


def ask(
    session: requests.Session, role: Role, host: str, timeout_seconds: tuple[float, float]
) -> SubscriberStatus | None:
    """Return a subscriber's answer to GET /status; None if there is no answer or another one."""
    return _get(session, f"http://{host}:{role.port}/status", timeout_seconds, SubscriberStatus)


def ask_each(settings: Settings, session: requests.Session) -> list[SubscriberEntry]:
    """Ask every subscriber, one after the other."""
    host = settings.client_host
    return least_loaded_first(
        entry(role, ask(session, role, host, CLIENT_TIMEOUT_SECONDS), host) for role in roles.subscribers(settings)
    )


def ask_app(app_url: str, session: requests.Session) -> list[SubscriberEntry]:
    """Ask the app for its list. Without an answer, the list is empty."""
    found = _get(session, f"{app_url}/subscribers", CLIENT_TIMEOUT_SECONDS, SubscriberList)
    return found.subscribers if found else []


def _get(session: requests.Session, url: str, timeout_seconds: tuple[float, float], kind: type[T]) -> T | None:
    """Return the answer of a URL as `kind`; None if there is no answer or another one."""
    try:
        answer = session.get(url, timeout=timeout_seconds)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=kind)
    except (requests.RequestException, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class Directory:
    """The status of every subscriber, kept up to date in the background, so that no caller waits.

    One thread for each subscriber asks it every ASK_AGAIN_SECONDS. A subscriber that hangs delays only its own status.
    """

    def __init__(self, settings: Settings) -> None:
        self._host = settings.client_host
        self._status: dict[Role, SubscriberStatus | None] = dict.fromkeys(roles.subscribers(settings))
        self._closed = threading.Event()
        for role in self._status:
            threading.Thread(target=self._keep_asking, args=(role,), name=f"ask {role.name}", daemon=True).start()

    def now(self, host: str) -> list[SubscriberEntry]:
        """Return every subscriber, the least loaded first, with addresses at `host`."""
        return least_loaded_first(entry(role, status, host) for role, status in self._status.items())

    def evictions(self) -> dict[str, tuple[Eviction, ...]]:
        """Return the last evictions of each subscriber that is alive, by its name."""
        return {role.name: status.evictions() for role, status in self._status.items() if status}

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def _keep_asking(self, role: Role) -> None:
        session = direct_session()
        while True:
            self._status[role] = ask(session, role, self._host, TIMEOUT_SECONDS)
            if self._closed.wait(ASK_AGAIN_SECONDS):
                return
