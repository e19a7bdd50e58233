"""GET /stream of one subscriber after another → the counts in it.

The client opens the connection, so this works behind a firewall that lets no connection in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import requests
import urllib3

from emostream.discovery import CLIENT_TIMEOUT_SECONDS, SubscriberEntry
from emostream.process import StopFlag
from emostream.receive.screen import say
from emostream.receive.subscription import Subscription
from emostream.records import InvalidRecord, parse_batch
from emostream.settings import Settings

# A healthy stream sends a comment every 15 s.
SILENCE_SECONDS = 40.0
CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 4 * 1024 * 1024


class LineTooLong(Exception):
    """A line of more than MAX_LINE_BYTES."""


@dataclass(frozen=True)
class ServerSentEvent:
    """One event, and the newest id so far. Without data, it only brings an id."""

    type: str
    data: str
    last_event_id: str


def parse_events(lines: Iterable[bytes], last_event_id: str = "") -> Iterator[ServerSentEvent]:
    """Yield the events in these lines, as the HTML standard defines them (9.2.6).

    `last_event_id` is the newest id of the connection before. It is valid until an event brings another one.
    """
    event_type, data = "", list[str]()
    for line in lines:
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data or last_event_id:
                yield ServerSentEvent(event_type or "message", "\n".join(data), last_event_id)
            event_type, data = "", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            event_type = value
        elif name == "id" and "\0" not in value:
            last_event_id = value


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each line as soon as it is complete. Raises LineTooLong."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in complete)
        if len(rest) > MAX_LINE_BYTES:
            raise LineTooLong


class StreamReader(Subscription):
    """The stream that the client reads. It shows each count with `show(record_key, emoji, count)`."""

    needs = "stream"

    def __init__(
        self, settings: Settings, app_url: str, stop: StopFlag, show: Callable[[str | None, str, int], object]
    ) -> None:
        super().__init__(settings, app_url, stop)
        self._show = show
        self._response: requests.Response | None = None
        self._subscriber: SubscriberEntry | None = None
        self._last_event_id = ""

    def keep(self) -> None:
        """Show what arrives until a stop. If the subscriber fails, go on with another one."""
        # In a thread, because a read that waits for the next event does not notice a stop.
        reader = threading.Thread(target=self._read_streams, name="stream", daemon=True)
        reader.start()
        while reader.is_alive() and not self._stop.wait(1.0):
            pass

    def leave(self) -> None:
        """Do nothing: a stream ends with its connection."""

    def _read_streams(self) -> None:
        while not self._stop.requested:
            self._read()
            if not self._stop.requested:
                say("the stream has ended; looking for another")
                self.find(wait=True)

    def _rank(self, subscriber: SubscriberEntry) -> tuple[int, ...] | None:
        """Others of the same cluster come first, because there nothing is missed; the failed subscriber comes last."""
        if not (subscriber.alive and subscriber.stream_url) or subscriber.available_streams == 0:
            return None
        lost, streams = self._subscriber, subscriber.streams or 0
        return (subscriber.url == lost.url, subscriber.cluster != lost.cluster, streams) if lost else (streams,)

    def _join(self, subscriber: SubscriberEntry) -> bool:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        url, room = subscriber.stream_url or "", self._settings.room
        if room:
            url += f"?room={room}"
        timeout = (CLIENT_TIMEOUT_SECONDS[0], SILENCE_SECONDS)
        try:
            response = self._session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.RequestException:
            return False
        if response.status_code != 200 or not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            response.close()
            return False
        self._response, self._subscriber = response, subscriber
        say(f"reading {subscriber.stream_url}")
        return True

    def _read(self) -> None:
        """Show what arrives until the connection ends or is silent for SILENCE_SECONDS."""
        response = self._response
        assert response  # noqa: S101 - find() has opened it
        try:
            lines = split_lines(iter(lambda: response.raw.read1(CHUNK_BYTES), b""))
            for event in parse_events(lines, self._last_event_id):
                self._handle(event)
        except (urllib3.exceptions.HTTPError, OSError, LineTooLong):
            pass  # The next connection resumes after the last event.
        finally:
            response.close()

    def _handle(self, event: ServerSentEvent) -> None:
        self._last_event_id = event.last_event_id
        if event.type != "message" or not event.data:
            return
        try:
            for emoji, count in parse_batch(event.data.encode()):
                self._show(event.last_event_id or None, emoji, count)
        except InvalidRecord as error:
            say(f"skipped a batch that cannot be read: {error}")
