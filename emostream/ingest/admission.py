"""A request's headers, address and users → whether it may send: API_KEY, TRUSTED_PROXIES and the rate limits."""

from __future__ import annotations

import hmac

from emostream.http.access import client_address, name_of
from emostream.http.rate_limit import RateLimit
from emostream.records import Event
from emostream.settings import Settings


class TooManyTaps(Exception):
    """More taps than a rate limit allows: `limit` taps, `whose` they are, and when to try again."""

    def __init__(self, limit: str, whose: str, retry_after_seconds: int) -> None:
        super().__init__(limit, whose)
        self.limit = limit
        self.whose = whose
        self.retry_after_seconds = retry_after_seconds


class Admission:
    """Who may send, and how much."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.encode()
        self._proxies = settings.trusted_networks
        self._by_user = RateLimit(settings.rate_limit_user) if settings.rate_limit_user else None
        self._by_address = RateLimit(settings.rate_limit_address) if settings.rate_limit_address else None
        self.needs_key = bool(self._key)
        self.limited = bool(self._by_user or self._by_address)

    def has_key(self, authorization: str | None, api_key: str | None) -> bool:
        """Whether these headers show the API key."""
        scheme, _, token = (authorization or "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else api_key or ""
        return hmac.compare_digest(shown.encode(), self._key)

    def count(self, event: Event, address: str) -> None:
        """Count an event's taps for its address and its user. Raises TooManyTaps."""
        for limit, name, whose in (
            (self._by_address, address, "from an address"), (self._by_user, event.user_id, "of a user"),
        ):  # fmt: skip
            if limit and (wait_seconds := limit.take(name, event.count)):
                raise TooManyTaps(limit.limit, whose, wait_seconds)

    def address(self, peer: str, forwarded_for: str | None) -> str:
        """Where a request comes from. Of an IPv6 address it is the /64: a provider gives that to one customer."""
        return name_of(client_address(peer, forwarded_for, self._proxies), peer)
