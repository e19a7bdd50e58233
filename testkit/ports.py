"""TCP ports of this machine: which are free, which somebody listens on."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

LOWEST, HIGHEST = 15_000, 32_000  # below the range that the system hands out
_begin = LOWEST + os.getpid() % 150 * 100


def listening(port: int) -> bool:
    """Whether somebody on this machine listens on a TCP port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port_block(size: int) -> int:
    """The first of `size` TCP ports in a row that nobody listens on.

    It is another block at each call: a browser may keep a spare connection to a server, and would ask that server what
    is meant for the next one with the same port.
    """
    global _begin
    for first in itertools.chain(range(_begin, HIGHEST - size, size), range(LOWEST, _begin, size)):
        try:
            for port in range(first, first + size):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        _begin = first + size
        return first
    raise AssertionError(f"no {size} free ports in a row")


@contextmanager
def lost_host() -> Iterator[str]:
    """An address where packets vanish: its queue of connections is full, and nobody takes them."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"
