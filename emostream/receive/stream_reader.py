"""A subscriber's GET /stream → its batches, each once; and on with another subscriber when that one is gone.

The connection goes out from here, so it works from behind a router or firewall that lets nothing in.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import requests
import urllib3

from emostream.discovery import CLIENT_TIMEOUT_SECONDS, Listed, ask_app, ask_each
from emostream.process import StopFlag
from emostream.records import InvalidRecord, encode, parse_batch
from emostream.settings import Settings

RETRY_SECONDS = 1.0
# A stream that is well sends a comment every 15 s.
SILENCE_SECONDS = 40.0
CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream; `last_event_id` is the newest id, be it this event's or an earlier one's.

    Without data it only brings an id, which is where to go on before there is a first event.
    """

    type: str
    data: str
    last_event_id: str


class Watcher:
    """Which stream the client reads. It shows each emoji of each batch by `show(record_key, value)`."""

    def __init__(
        self, settings: Settings, app_url: str, show: Callable[[str | None, bytes], object],
        say: Callable[[str], None], stop: StopFlag,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._app_url = app_url
        self._show = show
        self._say = say
        self._stop = stop
        self._session = requests.Session()
        self._session.trust_env = False
        self._response: requests.Response | None = None
        self._subscriber: Listed | None = None
        self._last_event_id = ""

    def find(self, wait: bool) -> bool:
        """Open a stream; False where no subscriber has one free and `wait` is not set, or at a stop."""
        told = False
        while not self._stop.requested:
            for subscriber in self._candidates():
                if self._open(subscriber):
                    return True
            if not wait:
                return False
            if not told:
                self._say("no subscriber has a free stream; waiting for one")
                told = True
            self._stop.wait(RETRY_SECONDS * (0.5 + random.random()))
        return False

    def keep(self) -> None:
        """Until a stop: show what comes, and go on with another subscriber when this one is gone."""
        # A thread of its own, because a read that waits for the next event does not see the stop.
        threading.Thread(target=self._follow, name="stream", daemon=True).start()
        while not self._stop.wait(1.0):
            pass

    def leave(self) -> None:
        """Nothing to be done: a stream ends with its connection."""

    def _follow(self) -> None:
        while not self._stop.requested:
            self._read()
            if not self._stop.requested:
                self._say("the stream has ended; looking for another")
                self.find(wait=True)

    def _candidates(self) -> Iterator[Listed]:
        """Subscribers with free streams, as the app knows them, or where there is none as each says itself.

        The one that was lost comes last, its cluster, where a resumption is exact, first; then the least loaded.
        """
        found = ask_app(self._app_url, self._session) or ask_each(self._settings, self._session)
        before = self._subscriber
        roomy = [one for one in found if one.alive and one.stream_url and one.available_streams != 0]
        yield from sorted(
            roomy,
            key=lambda one: (
                before is not None and one.url == before.url,
                before is not None and one.cluster != before.cluster,
                one.streams or 0,
                random.random(),
            ),
        )

    def _open(self, subscriber: Listed) -> bool:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        try:
            response = self._session.get(
                subscriber.stream_url or "", headers=headers, stream=True,
                timeout=(CLIENT_TIMEOUT_SECONDS[0], SILENCE_SECONDS),
            )  # fmt: skip
        except requests.RequestException:
            return False
        if response.status_code != 200 or not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            response.close()
            return False
        self._response, self._subscriber = response, subscriber
        self._say(f"reading {subscriber.stream_url}")
        return True

    def _read(self) -> None:
        """Show what comes until the connection ends or is silent for SILENCE_SECONDS."""
        assert self._response  # noqa: S101 - find was called before
        try:
            for event in events(_lines(self._response), self._last_event_id):
                self._take(event)
        except (urllib3.exceptions.HTTPError, OSError):
            pass  # however it ended, the next one goes on there
        finally:
            self._response.close()

    def _take(self, event: ServerSentEvent) -> None:
        self._last_event_id = event.last_event_id
        if event.type != "message" or not event.data:
            return
        try:
            for emoji, count in parse_batch(event.data.encode()):
                self._show(event.last_event_id or None, encode({"emoji": emoji, "count": count}))
        except InvalidRecord as error:
            self._say(f"skipped a batch that is none: {error}")


def events(lines: Iterable[bytes], last_event_id: str = "") -> Iterator[ServerSentEvent]:
    """The events that lines of a stream make, as the HTML standard has it (section 9.2.6). An unfinished one is none.

    `last_event_id` is that of the connection before, which holds until an event brings another.
    """
    event_type, data = "", list[str]()
    for line in lines:
        if not line:
            if data or last_event_id:
                yield ServerSentEvent(event_type or "message", "\n".join(data), last_event_id)
            event_type, data = "", []
            continue
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event_type = value
        elif name == "id" and "\0" not in value:
            last_event_id = value


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Each line of a body as soon as it has come. Raises what urllib3 does, and OSError for a line without end."""
    rest = b""
    while chunk := response.raw.read1(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in whole)
        if len(rest) > MAX_LINE_BYTES:
            raise OSError(f"a line of more than {MAX_LINE_BYTES} bytes")
