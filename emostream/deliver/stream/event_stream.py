"""One open event stream, how a slow one is noticed, and how many streams a process can have.

The kernel buffers little for a stream, so a slow one is noticed early. A slow stream then costs only a number, its
cursor, and delays nobody.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable

from emostream.deliver.stream.resume import EventId
from emostream.process import Log

STALLED_SECONDS = 30.0
OTHER_DESCRIPTORS = 256  # what the process has open besides streams and clients
MAX_REFUSED = 100  # connections beyond MAX_STREAMS that may be open, to be answered 503
MAX_IGNORED_BYTES = 64 * 1024  # of what a client sends after its request
SEND_BUFFER_BYTES = 64 * 1024
UNSENT_BYTES = 16 * 1024
TCP_NOTSENT_LOWAT = 25  # Linux; the socket module has no name for it


class EventStream(asyncio.Protocol):
    """One open stream. While its socket is full, it is `slow`."""

    def __init__(
        self, transport: asyncio.Transport, cursor: int, on_room: Callable[[EventStream], None],
        on_end: Callable[[EventStream], None],
    ) -> None:  # fmt: skip
        """Take over a connection. It calls `on_room` when a full socket has room again, and `on_end` at the end."""
        self.transport = transport
        self.cursor = cursor  # the number of the next micro-batch to send
        self.resume_after: EventId | None = None  # no events until all that this id covers is here,
        self.held_until = 0.0  # or until this moment (monotonic seconds)
        self.slow = False
        self.since = 0.0  # when a slow stream last took something
        self._unsent_bytes = 0
        self._ignored_bytes = 0
        self._on_room, self._on_end = on_room, on_end
        transport.set_write_buffer_limits(high=0)
        transport.set_protocol(self)
        transport.resume_reading()

    def stalled(self, now: float) -> bool:
        """Whether this slow stream has taken nothing for too long."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self.since = unsent_bytes, now
        return now - self.since > STALLED_SECONDS

    # What the event loop calls.

    def pause_writing(self) -> None:
        """The socket is full."""
        self.slow, self.since = True, time.monotonic()

    def resume_writing(self) -> None:
        """The socket has taken everything."""
        self.slow = False
        self._on_room(self)

    def data_received(self, data: bytes) -> None:
        """Ignore what comes after the request, but not without end."""
        self._ignored_bytes += len(data)
        if self._ignored_bytes > MAX_IGNORED_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._on_end(self)


def buffer_little(listener: socket.socket) -> None:
    """Have the kernel buffer little for each connection of `listener`, and end those whose host has vanished."""
    options = {
        socket.TCP_NODELAY: 1,
        TCP_NOTSENT_LOWAT: UNSENT_BYTES,
        socket.TCP_USER_TIMEOUT: round(STALLED_SECONDS * 1000) + 5_000,
    }
    for option, value in options.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def allow_descriptors(log: Log, max_streams: int, max_clients: int) -> int:
    """Let this process open as many files as the system allows. Return how many streams that is enough for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - OTHER_DESCRIPTORS - max_clients - MAX_REFUSED
    if hard == resource.RLIM_INFINITY or room >= max_streams:
        return max_streams
    log.warning(
        "the system allows fewer open files than MAX_STREAMS needs; raise `ulimit -Hn`",
        max_streams=max_streams, descriptors=hard, streams=max(0, room),
    )  # fmt: skip
    return max(0, room)
