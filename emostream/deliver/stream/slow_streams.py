"""How a slow stream is treated: streams whose socket is full → one event with all that they missed, or their end.

The kernel buffers little for a stream, so a slow one is noticed early. It then costs a number (its cursor) and delays
nobody. When its socket takes more, the server sends the rest of the text that was cut, and then one event with the sums
of all micro-batches since. A stream that takes nothing for STALLED_SECONDS is closed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from emostream.deliver.stream.event_stream import EventStream

STALLED_SECONDS = 30.0
SEND_BUFFER_BYTES = 64 * 1024
UNSENT_BYTES = 16 * 1024
TCP_NOTSENT_LOWAT = 25  # Linux; the socket module has no name for it


class SlowStreams(dict[int, EventStream]):
    """The streams whose socket is full, by file descriptor."""

    def block(self, fd: int, stream: EventStream, unsent: bytes) -> None:
        """Add a stream whose socket did not take `unsent`, the end of a text; empty when it took nothing of it."""
        stream.unsent = unsent
        stream.since = time.monotonic()
        self[fd] = stream

    def stalled(self, now: float) -> Iterator[int]:
        """Those that have waited too long. Remove each one before asking for the next."""
        # The first has waited longest, so this looks at no more streams than have stalled.
        while self and now - next(iter(self.values())).since > STALLED_SECONDS:
            yield next(iter(self))


def buffer_little(listener: socket.socket) -> None:
    """Make the kernel hold little for each connection of `listener`, and give up on hosts that have vanished."""
    options = {
        socket.TCP_NODELAY: 1,
        TCP_NOTSENT_LOWAT: UNSENT_BYTES,
        socket.TCP_USER_TIMEOUT: round(STALLED_SECONDS * 1000) + 5_000,
    }
    for option, value in options.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
