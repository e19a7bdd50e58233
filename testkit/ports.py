"""TCP ports of this machine: which are free, which somebody listens on."""

from __future__ import annotations

import os
import socket


def listening(port: int) -> bool:
    """Whether somebody on this machine listens on a TCP port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port_block(size: int) -> int:
    """The first of `size` TCP ports in a row that nobody listens on, below the range that the system hands out."""
    for first in range(15_000 + os.getpid() % 150 * 100, 32_000, size):
        try:
            for port in range(first, first + size):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError(f"no {size} free ports in a row")
