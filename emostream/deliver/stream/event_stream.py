"""What the server knows of one connection."""

from __future__ import annotations

from emostream.deliver.stream.requests import Request
from emostream.deliver.stream.resume import EventId


class EventStream:
    """One connection."""

    __slots__ = ("cursor", "request", "resume_after", "since", "unsent")

    def __init__(self, request: Request, since: float) -> None:
        self.request: Request | None = request  # while it is being read
        self.since = since  # when it connected; for a slow stream: when its socket last took something
        self.cursor = 0  # the number of the next micro-batch to send
        self.unsent = b""  # the end of a text of which the socket took only the beginning
        self.resume_after: EventId | None = None  # what it has seen elsewhere, until all of that has come here
