"""The last answer to a slow question, for all who ask it at about the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One asks for all: who comes meanwhile takes the answer before, and waits only where there is none.

    So not all of a server's threads wait for somebody who hangs.
    """

    def __init__(self, ask: Callable[[], T], fresh_seconds: float) -> None:
        """`ask` is called by one thread at a time; what it raises goes to the one whose call it was."""
        self._ask = ask
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._last: tuple[float, T] | None = None  # when it was asked for, and the answer

    def get(self) -> T:
        """The answer, asked for at most `fresh_seconds` ago, or the one before where another is on its way."""
        if (last := self._last) and self._fresh(last):
            return last[1]
        if not self._lock.acquire(blocking=last is None):
            assert last  # noqa: S101 - not blocking only where there is one
            return last[1]
        try:
            if not (self._last and self._fresh(self._last)):
                asked_at = time.monotonic()
                self._last = asked_at, self._ask()
            return self._last[1]
        finally:
            self._lock.release()

    def _fresh(self, last: tuple[float, T]) -> bool:
        return time.monotonic() - last[0] < self._fresh_seconds
