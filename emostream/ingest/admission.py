"""A request's headers, address and users → whether it may send: API_KEY, TRUSTED_PROXIES and the rate limits."""

from __future__ import annotations

import hmac

from emostream.http.access import bearer_token, limited_name
from emostream.http.messages import Answer, Request
from emostream.http.rate_limit import RateLimit
from emostream.ingest import refusals
from emostream.records import Event
from emostream.settings import Settings


class NotAdmitted(Exception):
    """An event exceeds a rate limit. `answer` is the refusal."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.error)
        self.answer = answer


class Admission:
    """Who may send, and how much."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.encode()
        self._proxies = settings.trusted_networks
        self._by_address = RateLimit(settings.rate_limit_address) if settings.rate_limit_address else None
        self._by_user = RateLimit(settings.rate_limit_user) if settings.rate_limit_user else None
        self.needs_key = bool(self._key)
        self.limited = bool(self._by_user or self._by_address)

    def has_key(self, request: Request) -> bool:
        """Whether a request shows the API key."""
        token = bearer_token(request)
        shown = (request.header("x-api-key") or "") if token is None else token.decode("latin-1")
        return hmac.compare_digest(shown.encode(), self._key)

    def count(self, event: Event, address: str) -> None:
        """Count an event's taps for its address and its user. Raises NotAdmitted."""
        limits = (self._by_address, address, "from an address"), (self._by_user, event.user_id, "of a user")
        for limit, _, whose in limits:
            if limit and event.count > limit.most:  # it can never pass, so it must not use up anything
                raise NotAdmitted(refusals.too_many_merged(limit.most, f"{limit.limit} {whose}", event.count))
        for limit, name, whose in limits:
            if limit and (wait_seconds := limit.take(name, event.count)):
                raise NotAdmitted(refusals.too_many_taps(f"{limit.limit} {whose}", wait_seconds))

    def address(self, request: Request) -> str:
        """Return the address that a request counts for."""
        return limited_name(request, self._proxies)
