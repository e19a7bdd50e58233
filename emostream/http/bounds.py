"""The bounds that all connections of a server share: how many there are, and how many requests they hold."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar

# Looking for idle connections takes well under a µs for each that is open; this keeps it below 2 % of the time.
LOOK_SECONDS_PER_CONNECTION = 20e-6


class BoundedConnection(Protocol):
    """What a bound needs to know of a connection."""

    since: float  # when it last did something, by the clock of the bounds

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything on it."""

    def close(self) -> None:
        """End it."""

    def end_if_missing(self) -> None:
        """Give up its request if the rest of the body has been missing for too long."""


C = TypeVar("C", bound=BoundedConnection)


class Bounds(Generic[C]):
    """Counts connections and requests. When there are too many, those that nobody misses make room."""

    def __init__(self, max_connections: int, max_requests: int) -> None:
        self.max_connections = max_connections
        self.max_requests = max_requests
        # Requests that are held: a part of the body is missing, or the app works on the answer, or they wait for that.
        self.in_flight = 0
        self.now = 0.0  # the loop's clock, a moment ago
        self.open: dict[C, None] = {}  # in the order in which they came
        self.missing_bodies: dict[C, None] = {}  # the longest missing first
        self.made_room = 0  # idle connections that were closed for others
        self._idle: deque[tuple[float, C]] = deque()  # as of the last look, the longest idle first
        self._look_again = 0.0

    @property
    def busy(self) -> bool:
        """Whether no more requests can be held."""
        return self.in_flight >= self.max_requests

    def has_room(self) -> bool:
        """Whether one more request can be held. The body that has been missing for the longest may make room."""
        if self.busy and self.missing_bodies:
            next(iter(self.missing_bodies)).end_if_missing()
        return not self.busy

    def add(self, connection: C) -> int:
        """Count a new connection; the longest idle one makes room for it. Returns how many there are too many."""
        made_room = len(self.open) >= self.max_connections and self._close_longest_idle()
        self.open[connection] = None
        return 0 if made_room else max(0, len(self.open) - self.max_connections)

    def remove(self, connection: C) -> None:
        """Forget a connection that has ended."""
        self.open.pop(connection, None)

    def _close_longest_idle(self) -> bool:
        clock = asyncio.get_running_loop().time()
        if not self._idle and clock >= self._look_again:
            self._look_again = clock + len(self.open) * LOOK_SECONDS_PER_CONNECTION
            idle = [(connection.since, connection) for connection in self.open if connection.idle]
            self._idle.extend(sorted(idle, key=lambda found: found[0]))
        while self._idle:
            since, connection = self._idle.popleft()
            if connection.idle and connection.since == since and connection in self.open:
                connection.close()
                self.remove(connection)
                self.made_room += 1
                return True
        return False
