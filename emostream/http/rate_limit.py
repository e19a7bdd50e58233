"""How often each of many names may do something. It counts in this process alone."""

from __future__ import annotations

import math
import time

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

# Names that one limit counts at a time, some 100 bytes each.
MAX_COUNTED = 100_000


class RateLimit:
    """One limit, such as 10/second."""

    def __init__(self, limit: str) -> None:
        self.limit = limit
        self._item = parse(limit)
        self._forget()

    def _forget(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)

    @property
    def counted(self) -> int:
        """How many names are counted now."""
        return len(self._storage.storage)

    def take(self, name: str, cost: int = 1) -> int:
        """Count; returns 0, or how many seconds to wait if that is more than the limit allows."""
        if self.counted >= MAX_COUNTED:
            # A flood of invented names must not cost memory. All names begin anew.
            self._forget()
        if self._limiter.hit(self._item, name, cost=cost):
            return 0
        wait_seconds = self._wait_seconds(name)
        if wait_seconds > self._item.get_expiry() + 1:  # the clock was set back, and the old time is far away
            self._forget()
            return self.take(name, cost)
        return wait_seconds

    def exceeded(self, name: str) -> int:
        """Count nothing; returns 0, or how many seconds to wait until a `take` is allowed."""
        return 0 if self._limiter.test(self._item, name) else self._wait_seconds(name)

    def _wait_seconds(self, name: str) -> int:
        return max(1, math.ceil(self._limiter.get_window_stats(self._item, name).reset_time - time.time()))
