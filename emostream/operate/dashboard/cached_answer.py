"""A slow question → its last answer, for all who ask at about the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CachedAnswer(Generic[T]):
    """One caller refreshes the answer; the others get the cached one, and wait only if there is none yet.

    So a question that hangs holds only one thread of the server.
    """

    def __init__(self, ask: Callable[[], T], fresh_seconds: float) -> None:
        """Only one thread at a time calls `ask`. The caller who refreshes gets the errors that it raises."""
        self._ask = ask
        self._fresh_seconds = fresh_seconds
        self._refreshing = threading.Lock()
        self._last: tuple[float, T] | None = None  # when somebody asked, and the answer

    def get(self) -> T:
        """Return an answer that is at most `fresh_seconds` old, or the one before it during a refresh."""
        last = self._last
        if not self._refreshing.acquire(blocking=last is None) and last:
            return last[1]
        try:
            if self._last is None or time.monotonic() - self._last[0] >= self._fresh_seconds:
                self._last = time.monotonic(), self._ask()
            return self._last[1]
        finally:
            self._refreshing.release()
