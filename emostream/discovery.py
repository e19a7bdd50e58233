"""GET /status of every subscriber → which subscribers are alive, where they are, and how much capacity they have.

The app knows where subscribers are from their announcements, wherever they run. One that announces nothing must be on
this machine, at the port that the contract gives it. The app keeps the list up to date and serves it as
GET /subscribers. Clients ask the app; if it does not help, they ask each subscriber on this machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
from msgspec import Meta

from emostream import roles
from emostream.roles import Place
from emostream.settings import Settings

# The time to connect, and the time to answer. A subscriber on this machine answers in milliseconds, or it hangs.
TIMEOUT_SECONDS = (1.0, 1.0)
CLIENT_TIMEOUT_SECONDS = (2.0, 5.0)  # between a client and a subscriber may be a network
ASK_AGAIN_SECONDS = 1.0
MAX_ASKED_PER_SECOND = 200  # of more subscribers, each is asked less often
LOOK_SECONDS = 0.5

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
    """GET /subscribers: every subscriber, the least loaded first, the dead last; and how often counts come."""

    subscribers: list[SubscriberEntry]
    batch_seconds: float | None = None


def entry(place: Place, status: SubscriberStatus | None, root: str, local_url: str) -> SubscriberEntry:
    """Return the entry of a subscriber. Without a status it is dead.

    `root` is the app's address as the caller knows it. At `local_url` is the app's own host, which the caller knows by
    the name in `root`.
    """
    url = _told(place.url, root, local_url)
    if status is None:
        return SubscriberEntry(url, cluster=place.cluster, subscriber=place.subscriber, alive=False)
    stream_url = _told(place.stream_url, root, local_url) if status.stream_port else None
    if place.stream_url.startswith(f"{local_url}:") and status.stream_port:
        stream_url = f"{_host_url(root)}:{status.stream_port}/stream"
    return SubscriberEntry(
        url, stream_url, place.cluster, place.subscriber,
        True, status.available_slots, status.available_streams, status.streams,
    )  # fmt: skip


def _told(url: str, root: str, local_url: str) -> str:
    return root + url if url.startswith("/") else url.replace(f"{local_url}:", f"{_host_url(root)}:", 1)


def _host_url(root: str) -> str:
    """Return the scheme and the host of a URL; a colon and a port may follow."""
    parts = urlsplit(root)
    return f"{parts.scheme}://[{parts.hostname}]" if ":" in (parts.hostname or "") else f"{parts.scheme}://{parts.hostname}"


def least_loaded_first(found: Iterable[SubscriberEntry]) -> list[SubscriberEntry]:
    """Sort: fewest streams first, with equal streams most free slots first; the dead last."""
    return sorted(found, key=lambda one: (not one.alive, one.streams or 0, -one.available_slots, one.url))


def direct_session() -> requests.Session:
    """Return a session that takes no proxies and no credentials from the environment."""
    session = requests.Session()
    session.trust_env = False
    return session


def ask(session: requests.Session, place: Place, timeout_seconds: tuple[float, float]) -> SubscriberStatus | None:
    """Return a subscriber's answer to GET /status; None if there is no answer or another one."""
    return _get(session, f"{place.url}/status", timeout_seconds, SubscriberStatus)


def by_formula(settings: Settings) -> list[Place]:
    """Return where the subscribers of this machine are by the settings alone."""
    return [roles.place(settings, role) for role in roles.subscribers(settings)]


def ask_each(settings: Settings, session: requests.Session) -> list[SubscriberEntry]:
    """Ask every subscriber that the settings tell of, one after the other."""
    url, root = roles.local_url(settings), f"{roles.local_url(settings)}:{settings.app_port}"
    return least_loaded_first(
        entry(place, ask(session, place, CLIENT_TIMEOUT_SECONDS), root, url) for place in by_formula(settings)
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

    def __init__(self, settings: Settings, announced: Callable[[], list[Place]] = list) -> None:
        """`announced` returns where subscribers are that have announced themselves; each may move."""
        self._local_url = roles.local_url(settings)
        self._by_formula = by_formula(settings)
        self._announced = announced
        self._places: dict[str, Place] = {}  # by name; replaced as a whole
        self._status: dict[Place, SubscriberStatus | None] = {}
        self._closed = threading.Event()
        self._look()
        threading.Thread(target=self._keep_looking, name="directory", daemon=True).start()

    def places(self) -> list[Place]:
        """Return where every subscriber is, those that do not answer too."""
        return list(self._places.values())

    def now(self, root: str) -> list[SubscriberEntry]:
        """Return every subscriber, the least loaded first. `root` is the app's address as the caller knows it."""
        return least_loaded_first(
            entry(place, self._status.get(place), root, self._local_url) for place in self.places()
        )

    def stream_origins(self, root: str) -> list[str]:
        """Return the origins of all streams, for a caller who knows the app by `root`. On its own host, any port."""
        found = set()
        for place in self.places():
            url = urlsplit(_told(place.stream_url, root, self._local_url))
            local = place.stream_url.startswith(f"{self._local_url}:")
            found.add(f"{_host_url(root)}:*" if local else f"{url.scheme}://{url.netloc}")
        return sorted(found)

    def evictions(self) -> dict[str, tuple[Eviction, ...]]:
        """Return the last evictions of each subscriber that is alive, by its name."""
        asked = [(name, self._status.get(place)) for name, place in self._places.items()]
        return {name: status.evictions() for name, status in asked if status}

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def _keep_looking(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Begin to ask those that are new. The threads that ask the others see for themselves who has gone."""
        # An announcement is better than the formula: that subscriber may run on another host.
        self._places = {place.name: place for place in (*self._by_formula, *self._announced())}
        for place in self._places.values():
            if place not in self._status:
                self._status[place] = None
                threading.Thread(target=self._keep_asking, args=(place,), name=f"ask {place.name}", daemon=True).start()

    def _keep_asking(self, place: Place) -> None:
        session = direct_session()
        while self._places.get(place.name) == place:
            self._status[place] = ask(session, place, TIMEOUT_SECONDS)
            if self._closed.wait(max(ASK_AGAIN_SECONDS, len(self._places) / MAX_ASKED_PER_SECOND)):
                return
        del self._status[place]
