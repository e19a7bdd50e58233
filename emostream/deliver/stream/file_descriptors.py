"""MAX_STREAMS → how many streams the file descriptors of this process are enough for."""

from __future__ import annotations

import resource

from emostream.process import Log

MAX_REFUSED = 100  # connections beyond MAX_STREAMS that may be open, to be answered 503
OTHER_DESCRIPTORS = 256  # what the process has open besides streams and clients


def allow_descriptors(log: Log, max_streams: int, max_clients: int) -> int:
    """Let this process open as many file descriptors as it may; returns how many streams that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - OTHER_DESCRIPTORS - max_clients - MAX_REFUSED
    if hard == resource.RLIM_INFINITY or room >= max_streams:
        return max_streams
    log.warning(
        "the system allows fewer file descriptors than MAX_STREAMS needs; raise `ulimit -Hn`",
        max_streams=max_streams, descriptors=hard, streams=max(0, room),
    )  # fmt: skip
    return max(0, room)
