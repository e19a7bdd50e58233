"""Taps at a steady rate, and what each was answered."""

from __future__ import annotations

import http.client
import json
import math
import random
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from testkit.http_calls import JSON

SENDERS = 16
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Tap:
    """`status` is 0 where no answer came."""

    emoji: str
    due: float  # Unix seconds
    status: int
    retry_after: bool
    room: str = ""
    user: str = ""  # another one for each tap


class Taps:
    """`rate` taps a second over kept-alive connections. Each is sent when it is due, answered or not those before it.

    Each is due at a random moment of its 1/rate s: at always the same one, all taps would come at the same few moments
    of a micro-batch. No tap is sent twice, whatever comes of it.
    """

    def __init__(
        self, port: int, rate: float, emojis: Iterator[str], total: float = math.inf, rooms: Sequence[str] = ("",),
        trust: ssl.SSLContext | None = None, path: str = "/send-emoji",
    ) -> None:  # fmt: skip
        """`total` is how many there are; without it they go on until stop(). They are in the `rooms` by turns.

        `trust`: speak TLS, and accept the certificates that it accepts. `path`: where the taps go.
        """
        self.sent: list[Tap] = []
        self._port, self._rate, self._emojis, self._total = port, rate, emojis, total
        self._rooms, self._trust, self._path = rooms, trust, path
        self._lock = threading.Lock()
        self._number = 0
        self._began = time.time() + 0.2
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Return when all have been answered, or failed."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Send no more, and wait for the answers to those that were sent."""
        self._stopped.set()
        self.wait()

    def answered_200(self) -> set[str]:
        """The emojis of the taps that were accepted."""
        return {tap.emoji for tap in self.sent if tap.status == 200}

    def _send(self) -> None:
        place = "127.0.0.1", self._port
        if self._trust is None:
            connection = http.client.HTTPConnection(*place, timeout=TIMEOUT_SECONDS)
        else:
            connection = http.client.HTTPSConnection(*place, timeout=TIMEOUT_SECONDS, context=self._trust)
        while not self._stopped.is_set():
            with self._lock:
                if self._number >= self._total:
                    return
                number, emoji = self._number, next(self._emojis)
                self._number += 1
            due = self._began + (number + random.random()) / self._rate
            if self._stopped.wait(max(0.0, due - time.time())):
                return
            room = self._rooms[number % len(self._rooms)]
            user = f"user-{number}"
            tap = {"user_id": user, "emoji_type": emoji, "timestamp": "2026-01-31T20:15:00Z"}
            body = json.dumps(tap | ({"room": room} if room else {}))
            try:
                connection.request("POST", self._path, body, JSON)
                answer = connection.getresponse()
                answer.read()
                self.sent.append(Tap(emoji, due, answer.status, answer.headers["Retry-After"] is not None, room, user))
            except (OSError, http.client.HTTPException):
                connection.close()
                self.sent.append(Tap(emoji, due, 0, False, room, user))
