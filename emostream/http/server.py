"""A listener → connections, until the server closes. All in one event loop."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from emostream.http.connection import Connections, ServerConnection

BACKLOG = 4_096


class HttpServer(Connections):
    """Accepts connections, and ends them all."""

    async def listen(self, bound: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        self.tick(loop)
        self._listener = await loop.create_server(partial(ServerConnection, self), sock=bound, backlog=BACKLOG)

    async def close(self, timeout_seconds: float) -> None:
        """Answer the requests that have begun, take no more, and end all connections."""
        self._listener.close()
        self.closing = True
        for connection in list(self.open):
            connection.finish()
        if self.open:
            await asyncio.wait([asyncio.ensure_future(self.none_open.wait())], timeout=timeout_seconds)
        for connection in list(self.open):
            connection.abort()
