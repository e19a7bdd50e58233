"""Clients by the hundred in a process of their own, each of which answers pushes in its own way.

The path of a client's URL says how: /hang never answers, /slow sends a byte of its answer each second, /500 and /302
answer that; any other is healthy. A push that has "produced" (time.monotonic()) tells how long it took.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import cast

import uvloop

from testkit.ports import free_port_block, listening
from testkit.waiting import wait_until

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
BAD = {
    "500": b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
    "302": b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
}


class Client(asyncio.Protocol):
    """A connection to any of the clients."""

    def __init__(self, delays_ms: list[float]) -> None:
        self._delays_ms = delays_ms
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0] or 0) if found else 1
        if not found or len(body) < length:
            return
        self._data = b""
        kind = head.split(b" ", 2)[1][1:].decode()
        if kind == "slow":
            self._trickle(OK)
        elif kind in BAD:
            self._write(BAD[kind])
        elif kind != "hang":
            produced = json.loads(body).get("produced")
            if produced is not None:
                self._delays_ms.append((time.monotonic() - produced) * 1000)
            self._write(OK)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _trickle(self, data: bytes) -> None:
        self._write(data[:1])
        if data[1:]:
            asyncio.get_running_loop().call_later(1.0, self._trickle, data[1:])


def serve_clients(port: int, control: Connection) -> None:
    """Be all clients on `port`; each message on `control` is answered with the delays since the last one."""
    delays_ms: list[float] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Client(delays_ms), "127.0.0.1", port, backlog=1024)

        def report() -> None:
            control.recv()
            control.send(list(delays_ms))
            delays_ms.clear()

        loop.add_reader(control.fileno(), report)
        await asyncio.Event().wait()

    uvloop.run(serve())


class PushClients:
    """All clients, below one URL."""

    def __init__(self, port: int, control: Connection) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._control = control

    def delays_ms(self, wanted: int = 0) -> list[float]:
        """How long each push to a healthy client since the last call took, once there are so many."""
        found: list[float] = []

        def come() -> bool:
            self._control.send(None)
            found.extend(self._control.recv())
            return len(found) >= wanted

        wait_until(f"{wanted} pushes", come, 120)
        return found


@contextmanager
def push_clients() -> Iterator[PushClients]:
    """PushClients that listen, for the length of the block."""
    port = free_port_block(1)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve_clients, args=(port, theirs), daemon=True)
    process.start()
    try:
        wait_until("the clients listen", lambda: listening(port))
        yield PushClients(port, ours)
    finally:
        process.terminate()
        process.join(10)
