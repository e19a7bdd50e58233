"""A name → whether it may do something once more. Each process counts for itself."""

from __future__ import annotations

import math
import time

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

MAX_COUNTED = 100_000  # names at a time, about 100 bytes each


class RateLimit:
    """A limit that holds for each name, such as 10/second. Its window starts when a name is first counted."""

    def __init__(self, limit: str) -> None:
        self.limit = limit
        self._item = parse(limit)
        self.most: int = self._item.amount  # the highest cost that one `take` can have
        self._forget()

    def _forget(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)

    @property
    def counted(self) -> int:
        """How many names are counted now."""
        return len(self._storage.storage)

    def take(self, name: str, cost: int = 1) -> int:
        """Count `cost` for a name. Return 0, or how many seconds to wait if that exceeds the limit."""
        if self.counted >= MAX_COUNTED:
            self._forget()  # all names start again: a flood of invented names must not fill the memory
        if self._limiter.hit(self._item, name, cost=cost):
            return 0
        wait_seconds = self._wait_seconds(name)
        if wait_seconds > self._item.get_expiry() + 1:  # the clock was set back, so the window would end too late
            self._forget()
            return self.take(name, cost)
        return wait_seconds

    def exceeded(self, name: str) -> int:
        """Count nothing. Return 0, or how many seconds to wait until a `take` succeeds."""
        return 0 if self._limiter.test(self._item, name) else self._wait_seconds(name)

    def _wait_seconds(self, name: str) -> int:
        return max(1, math.ceil(self._limiter.get_window_stats(self._item, name).reset_time - time.time()))
