"""What all connections of a server share: the bounds, the clock, and the bytes of an answer that nearly all get."""

from __future__ import annotations

import asyncio
from collections import deque
from email.utils import formatdate
from typing import Protocol

from emostream.http.head import HostCheck, any_host
from emostream.http.messages import Answer, App
from emostream.http.protocol import answer_bytes
from emostream.process import Log

# Looking for idle connections takes well under a µs for each that is open; this keeps it below 2 % of the time.
LOOK_SECONDS_PER_CONNECTION = 20e-6
REQUEST_SECONDS = 10.0


class OpenConnection(Protocol):
    """One connection, as far as the others are concerned."""

    since: float  # the clock when it became idle, a request began, or the client last read something

    @property
    def idle(self) -> bool:
        """Whether no request has begun, and all answers are sent."""

    def finish(self) -> None:
        """End when the requests that have begun are answered."""

    def abort(self) -> None:
        """End now."""

    def end_if_missing(self) -> None:
        """Give up the rest of a body that should have been here."""

    def end_if_overdue(self) -> None:
        """End if the client lets us wait for too long."""


class Connections:
    """All connections of a server, and the bounds that they share."""

    def __init__(
        self, app: App, log: Log, max_connections: int, max_requests: int, request_seconds: float = REQUEST_SECONDS,
        check_host: HostCheck = any_host,
    ) -> None:  # fmt: skip
        """`max_requests` bounds the requests that are held. A request has `request_seconds` to come in."""
        self.app = app
        self.check_host = check_host
        self.log = log
        self.max_requests = max_requests
        self.request_seconds = request_seconds
        self.closing = False
        self.date = ""
        self.now = 0.0  # the loop's clock, a moment ago
        # Requests that are held: a part of the body is missing, or the app works on the answer, or they wait for that.
        self.in_flight = 0
        self.missing_bodies: dict[OpenConnection, None] = {}  # the longest missing first
        self.open: dict[OpenConnection, None] = {}  # in the order in which they came
        self.max_connections = max_connections
        self._idle: deque[tuple[float, OpenConnection]] = deque()  # as of the last look, the longest idle first
        self._look_again = 0.0
        self._closed_idle = 0  # since the last log line about it
        self.none_open = asyncio.Event()
        self._last_answer: tuple[Answer | None, bytes] = None, b""

    def bytes_of(self, answer: Answer) -> bytes:
        """An answer's bytes on a connection that goes on. Nearly all answers are the same object."""
        last, data = self._last_answer
        if answer is not last:
            data = answer_bytes(answer, self.date)
            self._last_answer = answer, data
        return data

    def look(self, now: float) -> None:
        """Look at all connections at `now` of the loop's clock, which costs less than a timer for each request."""
        self.now = now
        self.date = formatdate(usegmt=True)
        self._last_answer = None, b""
        for connection in list(self.open):
            connection.end_if_overdue()
        if self._closed_idle:
            self.log.warning("too many connections; the longest idle ones were closed", closed=self._closed_idle)
            self._closed_idle = 0

    @property
    def busy(self) -> bool:
        """Whether no more requests can be held."""
        return self.in_flight >= self.max_requests

    def has_room(self) -> bool:
        """Whether one more request can be held. The body that has been missing for the longest may make room."""
        if self.busy and self.missing_bodies:
            next(iter(self.missing_bodies)).end_if_missing()
        return not self.busy

    def add(self, connection: OpenConnection) -> int:
        """Count a new connection; the longest idle one makes room for it. Returns how many there are too many."""
        made_room = len(self.open) >= self.max_connections and self._close_longest_idle()
        self.open[connection] = None
        return 0 if made_room else max(0, len(self.open) - self.max_connections)

    def remove(self, connection: OpenConnection) -> None:
        """Forget a connection that has ended."""
        self.open.pop(connection, None)
        if self.closing and not self.open:
            self.none_open.set()

    def _close_longest_idle(self) -> bool:
        clock = asyncio.get_running_loop().time()
        if not self._idle and clock >= self._look_again:
            self._look_again = clock + len(self.open) * LOOK_SECONDS_PER_CONNECTION
            idle = [(connection.since, connection) for connection in self.open if connection.idle]
            self._idle.extend(sorted(idle, key=lambda found: found[0]))
        while self._idle:
            since, connection = self._idle.popleft()
            if connection.idle and connection.since == since and connection in self.open:
                connection.finish()
                self.remove(connection)
                self._closed_idle += 1
                return True
        return False
