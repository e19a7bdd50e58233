"""What all connections of a server share: limits, a clock, and the bytes of the answer that nearly all requests get."""

from __future__ import annotations

import asyncio
from collections import deque
from email.utils import formatdate
from typing import Protocol

from emostream.http.head import HostCheck, any_host
from emostream.http.messages import Answer, App
from emostream.http.protocol import answer_bytes
from emostream.process import Log

# To check whether a connection is idle takes less than 1 µs. This pause keeps all checks below 2 % of the time.
PAUSE_PER_CONNECTION_SECONDS = 20e-6
REQUEST_SECONDS = 10.0


class OpenConnection(Protocol):
    """What a server needs of one connection."""

    since: float  # when it became idle, a request began, or the client last read something

    @property
    def idle(self) -> bool:
        """Whether no request has begun, and all answers are sent."""

    def finish(self) -> None:
        """Answer the requests that have begun, then close."""

    def abort(self) -> None:
        """Close now."""

    def end_if_missing(self) -> None:
        """Refuse the request whose body is missing, if it has been missing for long."""

    def end_if_overdue(self) -> None:
        """End the connection if the client has kept us waiting for too long."""


class Connections:
    """All connections of a server, and the limits that they share."""

    def __init__(
        self, app: App, log: Log, max_connections: int, max_requests: int, request_seconds: float = REQUEST_SECONDS,
        check_host: HostCheck = any_host,
    ) -> None:  # fmt: skip
        """`max_requests` limits the requests that are held. A whole request must arrive within `request_seconds`."""
        self.app = app
        self.check_host = check_host
        self.log = log
        self.max_connections = max_connections
        self.max_requests = max_requests
        self.request_seconds = request_seconds
        self.closing = False
        self.date = ""
        self.now = 0.0  # the loop's clock at the last look
        # Held requests: a part of the body is missing, the app works on the answer, or an earlier answer comes first.
        self.in_flight = 0
        self.missing_bodies: dict[OpenConnection, None] = {}  # the body that has been missing for longest is first
        self.open: dict[OpenConnection, None] = {}
        self.none_open = asyncio.Event()
        self._idle: deque[tuple[float, OpenConnection]] = deque()  # at the last search; the longest idle is first
        self._search_again = 0.0
        self._closed_idle = 0  # since the last log line about it
        self._last_answer: tuple[Answer | None, bytes] = None, b""

    def bytes_of(self, answer: Answer) -> bytes:
        """Return the bytes of an answer after which the connection stays open. Nearly always it is the last answer."""
        last, data = self._last_answer
        if answer is not last:
            data = answer_bytes(answer, self.date)
            self._last_answer = answer, data
        return data

    def look(self, now: float) -> None:
        """Look at all connections, about once a second. This costs less than a timer for each request."""
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
        """Whether one more request can be held. To make room, one whose body has been missing for long may end."""
        if self.busy and self.missing_bodies:
            next(iter(self.missing_bodies)).end_if_missing()
        return not self.busy

    def add(self, connection: OpenConnection) -> int:
        """Add a new connection; the longest idle one makes room for it. Return how many there are too many."""
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
        if not self._idle and clock >= self._search_again:
            self._search_again = clock + len(self.open) * PAUSE_PER_CONNECTION_SECONDS
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
