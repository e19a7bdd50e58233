"""A bound socket → HTTP/1.1 connections, in one event loop."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from emostream.http.connection import ServerConnection
from emostream.http.connections import Connections

BACKLOG = 4_096


class HttpServer(Connections):
    """A listener and all of its connections."""

    async def listen(self, bound: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        self._tick(loop)
        self._listener = await loop.create_server(partial(ServerConnection, self), sock=bound, backlog=BACKLOG)

    async def close(self, timeout_seconds: float) -> None:
        """Accept no more connections, answer the requests that have begun, and close all connections."""
        self._listener.close()
        self.closing = True
        for connection in list(self.open):
            connection.finish()
        if self.open:
            await asyncio.wait([asyncio.ensure_future(self.none_open.wait())], timeout=timeout_seconds)
        for connection in list(self.open):
            connection.abort()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(self.request_seconds / 10, self._tick, loop)
        self.look(loop.time())
