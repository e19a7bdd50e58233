"""Doubles of the package's own classes."""

from __future__ import annotations

import sys

from emostream.discovery import Directory, SubscriberStatus
from emostream.ingest.producer import BufferFull
from emostream.ingest.receipts import Receipt
from emostream.roles import Role, local_url, place
from testkit.settings import settings_with


class FakeDirectory(Directory):
    """Knows these subscribers and asks nobody."""

    def __init__(self, known: dict[Role, SubscriberStatus | None] | None = None, **advertised: str) -> None:
        settings = settings_with(**advertised)
        self._local_url = local_url(settings)
        self._status = {place(settings, role): status for role, status in (known or {}).items()}
        self._places = {one.name: one for one in self._status}


class FakeProducer:
    """Takes records while there is room and acknowledges them, or refuses all of them for one reason."""

    def __init__(self, failure: Exception | None = None, acknowledges: bool = True) -> None:
        self.failure = failure
        self.acknowledges = acknowledges
        self.room = sys.maxsize
        self.sent: list[bytes] = []

    def send(self, value: bytes, receipt: Receipt | None = None) -> None:
        if self.failure:
            raise self.failure
        if len(self.sent) >= self.room:
            raise BufferFull(f"{self.room} events are waiting for the broker already")
        self.sent.append(value)
        if receipt and not self.acknowledges:
            receipt.add(1)
