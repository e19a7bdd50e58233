"""A request's headers, address and users → whether it may send. Who may, from where, and how much."""

from __future__ import annotations

import hmac
import ipaddress
import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from emostream.http.cors import Cors, Headers
from emostream.records import Event
from emostream.settings import Network, Settings

# Users or addresses that a worker counts at a time, some 100 bytes each.
MAX_COUNTED = 100_000
PREFLIGHT_SECONDS = 86_400


class TooMany(Exception):
    """More taps than a rate limit allows; the text says whose and how many, `retry_after_seconds` when to try again."""

    def __init__(self, what: str, retry_after_seconds: int) -> None:
        super().__init__(what)
        self.retry_after_seconds = retry_after_seconds


class RateLimit:
    """One limit, for each of many names. Counts in this process alone."""

    def __init__(self, setting: str, whose: str) -> None:
        """`setting` is like 10/second, or empty for no limit."""
        self._item: RateLimitItem | None = parse(setting) if setting else None
        self._setting = setting
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
        """Count these taps. Raises TooMany."""
        if not self._item:
            return
        if self.counted >= MAX_COUNTED:
            # A flood of invented names must not cost memory; all may begin anew, the limit by address still holds it.
            self._forget()
        if not self._limiter.hit(self._item, name, cost=taps):
            wait_seconds = self._limiter.get_window_stats(self._item, name).reset_time - time.time()
            raise TooMany(f"expected at most {self._setting} {self._whose}, got more", max(1, math.ceil(wait_seconds)))


class Gate:
    """What API_KEY, RATE_LIMIT_USER, RATE_LIMIT_ADDRESS, TRUSTED_PROXIES and CORS_ORIGINS say."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.encode()
        self._proxies = settings.trusted_networks
        self.cors = Cors(settings.cors_origins)
        self._by_user = RateLimit(settings.rate_limit_user, "of a user")
        self._by_address = RateLimit(settings.rate_limit_address, "from an address")
        self.locked = bool(self._key)
        self.limited = bool(settings.rate_limit_user or settings.rate_limit_address)

    def admits(self, authorization: str | None, api_key: str | None) -> bool:
        """Whether a request shows the API key, where there is one."""
        if not self._key:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else api_key or ""
        return hmac.compare_digest(shown.encode(), self._key)

    def take_address(self, address: str, taps: int) -> None:
        """Count taps from an address. Raises TooMany."""
        self._by_address.take(address, taps)

    def take_user(self, event: Event) -> None:
        """Count an event's taps. Raises TooMany."""
        self._by_user.take(event.user_id, event.count)

    def address(self, peer: str, forwarded_for: str | None) -> str:
        """Who a request comes from: the last hop that is no trusted proxy.

        Of IPv6 it is the /64, which is what one subscriber of a network gets.
        """
        hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
        found = _parsed(peer)
        while hops and found is not None and _within(found, self._proxies):
            said = _parsed(hops.pop())
            if said is None:
                break  # not an address: its proxy is the last that is known
            found = said
        if isinstance(found, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((found, 64), strict=False))
        return peer if found is None else str(found)


def preflight(allow: str) -> Headers:
    """What a browser asks before it sends: methods and headers that it may use, and for how long that holds."""
    return [
        ("access-control-allow-methods", allow),
        ("access-control-allow-headers", "Authorization, Content-Type, X-API-Key"),
        ("access-control-max-age", str(PREFLIGHT_SECONDS)),
    ]


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
