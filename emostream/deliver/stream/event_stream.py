"""What the server knows of one connection."""

from __future__ import annotations

from emostream.deliver.stream.resume import EventId
from emostream.http.protocol import ServerProtocol


class EventStream:
    """One connection."""

    __slots__ = ("cursor", "protocol", "resume_after", "since", "unsent")

    def __init__(self, protocol: ServerProtocol, since: float) -> None:
        self.protocol: ServerProtocol | None = protocol  # until its request is complete
        self.since = since  # when it connected; for a slow stream: when its socket last took something
        self.cursor = 0  # the number of the next micro-batch to send
        self.unsent = b""  # the end of a text of which the socket took only the beginning
        self.resume_after: EventId | None = None  # what it has seen elsewhere, until all of that has come here
