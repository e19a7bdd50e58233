"""GET /stream of a subscriber → its batches, each once; from another subscriber when that one is gone.

The client opens the connection, so this works from behind a router or firewall that lets no connection in.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import requests
import urllib3

from emostream.discovery import CLIENT_TIMEOUT_SECONDS, SubscriberEntry, ask_app, ask_each
from emostream.process import StopFlag
from emostream.receive.server_sent_events import LineTooLong, ServerSentEvent, parse_events, split_lines
from emostream.records import InvalidRecord, parse_batch
from emostream.settings import Settings

RETRY_SECONDS = 1.0
# A healthy stream sends a comment every 15 s.
SILENCE_SECONDS = 40.0
CHUNK_BYTES = 64 * 1024


class StreamReader:
    """The stream that the client reads. It shows each emoji of each batch with `show(record_key, emoji, count)`."""

    def __init__(
        self, settings: Settings, app_url: str, show: Callable[[str | None, str, int], object],
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
        self._subscriber: SubscriberEntry | None = None
        self._last_event_id = ""

    def find(self, wait: bool) -> bool:
        """Open a stream; `wait` for one if none is free.

        Return False at a stop, and without `wait` when no subscriber has a free stream.
        """
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
        """Show what arrives until a stop; go on with another subscriber when this one is gone."""
        # Reading gets a thread of its own because a read that waits for the next event does not notice a stop.
        threading.Thread(target=self._read_streams, name="stream", daemon=True).start()
        while not self._stop.wait(1.0):
            pass

    def leave(self) -> None:
        """Do nothing: a stream ends with its connection."""

    def _read_streams(self) -> None:
        while not self._stop.requested:
            self._read()
            if not self._stop.requested:
                self._say("the stream has ended; looking for another")
                self.find(wait=True)

    def _candidates(self) -> Iterator[SubscriberEntry]:
        """Subscribers with free streams, as the app lists them, or as each answers for itself if the app lists none.

        The subscriber that was lost comes last. The others of its cluster come first, because only they know exactly
        what this client has seen. Then the fewest streams first.
        """
        found = ask_app(self._app_url, self._session) or ask_each(self._settings, self._session)
        lost = self._subscriber
        free = [one for one in found if one.alive and one.stream_url and one.available_streams != 0]
        yield from sorted(
            free,
            key=lambda one: (
                lost is not None and one.url == lost.url,
                lost is not None and one.cluster != lost.cluster,
                one.streams or 0,
                random.random(),
            ),
        )

    def _open(self, subscriber: SubscriberEntry) -> bool:
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
        """Show what arrives until the connection ends or is silent for SILENCE_SECONDS."""
        response = self._response
        assert response  # noqa: S101 - find() has opened it
        chunks = iter(lambda: response.raw.read1(CHUNK_BYTES), b"")
        try:
            for event in parse_events(split_lines(chunks), self._last_event_id):
                self._handle(event)
        except (urllib3.exceptions.HTTPError, OSError, LineTooLong):
            pass  # However this connection ended, the next one resumes after the last event.
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
            self._say(f"skipped a batch that cannot be read: {error}")
