"""A request's headers, address and users → whether it may send: API_KEY, TRUSTED_PROXIES and the rate limits."""

from __future__ import annotations

import hmac
import ipaddress
import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from emostream.records import Event
from emostream.settings import Network, Settings

# Users or addresses that a worker counts at a time, some 100 bytes each.
MAX_COUNTED = 100_000


class TooManyTaps(Exception):
    """More taps than a rate limit allows: `limit` taps, `whose` they are, and when to try again."""

    def __init__(self, limit: str, whose: str, retry_after_seconds: int) -> None:
        super().__init__(limit, whose)
        self.limit = limit
        self.whose = whose
        self.retry_after_seconds = retry_after_seconds


class RateLimit:
    """One limit, for each of many names. It counts in this process alone."""

    def __init__(self, limit: str, whose: str) -> None:
        """`limit` is such as 10/second, or empty for no limit."""
        self._item: RateLimitItem | None = parse(limit) if limit else None
        self._limit = limit
        self._whose = whose
        self._forget()

    def _forget(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)

    @property
    def counted(self) -> int:
        """How many names are counted now."""
        return len(self._storage.storage)

    def take(self, name: str, taps: int) -> None:
        """Count these taps. Raises TooManyTaps."""
        if not self._item:
            return
        if self.counted >= MAX_COUNTED:
            # A flood of invented names must not cost memory. All names begin anew; the limit by address still holds.
            self._forget()
        if not self._limiter.hit(self._item, name, cost=taps):
            wait_seconds = self._limiter.get_window_stats(self._item, name).reset_time - time.time()
            if wait_seconds > self._item.get_expiry() + 1:  # the clock was set back, and the old time is far away
                self._forget()
                self.take(name, taps)
            else:
                raise TooManyTaps(self._limit, self._whose, max(1, math.ceil(wait_seconds)))


class Admission:
    """Who may send, and how much."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.encode()
        self._proxies = settings.trusted_networks
        self._by_user = RateLimit(settings.rate_limit_user, "of a user")
        self._by_address = RateLimit(settings.rate_limit_address, "from an address")
        self.needs_key = bool(self._key)
        self.limited = bool(settings.rate_limit_user or settings.rate_limit_address)

    def has_key(self, authorization: str | None, api_key: str | None) -> bool:
        """Whether these headers show the API key."""
        scheme, _, token = (authorization or "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else api_key or ""
        return hmac.compare_digest(shown.encode(), self._key)

    def count(self, event: Event, address: str) -> None:
        """Count an event's taps for its address and its user. Raises TooManyTaps."""
        self._by_address.take(address, event.count)
        self._by_user.take(event.user_id, event.count)

    def address(self, peer: str, forwarded_for: str | None) -> str:
        """Where a request comes from: the last hop that is no trusted proxy.

        Of an IPv6 address it is the /64, because that is what a provider gives to one customer.
        """
        hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
        found = _parsed(peer)
        while hops and found is not None and _within(found, self._proxies):
            said = _parsed(hops.pop())
            if said is None:
                break  # not an address: the proxy that wrote it is the last hop that is known
            found = said
        if isinstance(found, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((found, 64), strict=False))
        return peer if found is None else str(found)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = text.strip()
    if host.startswith("["):  # [2001:db8::1]:443
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:  # 192.0.2.1:443
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
