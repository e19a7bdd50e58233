"""GET /status and POST /register → a slot with a subscriber, kept until the client leaves."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import requests

from emostream.discovery import CLIENT_TIMEOUT_SECONDS, SubscriberEntry, ask_app, ask_each
from emostream.process import StopFlag
from emostream.receive.terminal import say
from emostream.settings import Settings

# How often the client confirms its registration, and for how long that may fail before it looks for another
# subscriber. A subscriber that was killed is back sooner than that, and goes on where it was.
CONFIRM_SECONDS = 2.0
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 1.0


class Membership:
    """The subscriber that the client is registered with, and the calls that keep it registered."""

    def __init__(self, settings: Settings, client_url: str, stop: StopFlag, app_url: str) -> None:
        self._settings = settings
        self._app_url = app_url
        self._client_url = client_url
        self._stop = stop
        self._session = requests.Session()
        self._session.trust_env = False
        self._subscriber_url: str | None = None
        # The name by which this subscriber's pushes are known; None while it is not known.
        self.subscriber_name: str | None = None

    def find(self, wait: bool) -> bool:
        """Register with a subscriber that has a free slot; `wait` for one if there is none.

        Return False at a stop, and without `wait` when no subscriber has a free slot.
        """
        told = False
        while not self._stop.requested:
            for subscriber_url in self._with_free_slots():
                if self._register(subscriber_url):
                    return True
            if not wait:
                return False
            if not told:
                say("no subscriber has a free slot; waiting for one")
                told = True
            self._stop.wait(RETRY_SECONDS)
        return False

    def keep(self) -> None:
        """Confirm the registration until a stop; find another subscriber when this one is gone."""
        confirmed = time.monotonic()
        while not self._stop.wait(CONFIRM_SECONDS):
            if self._subscriber_url and self._register(self._subscriber_url):
                confirmed = time.monotonic()
            elif time.monotonic() - confirmed > PATIENCE_SECONDS:
                say(f"{self._subscriber_url} does not answer any more; looking for another subscriber")
                if self.find(wait=True):
                    confirmed = time.monotonic()

    def leave(self) -> None:
        """Deregister. A subscriber that cannot be reached will evict the client by itself."""
        if self._subscriber_url:
            answer = self._post(f"{self._subscriber_url}/deregister")
            left = answer is not None and answer.status_code in (200, 404)
            say("deregistered" if left else "the subscriber did not answer; it will evict this client by itself")

    def _with_free_slots(self) -> Iterator[str]:
        """The URLs of subscribers with free slots: most free slots first, equals in random order.

        First those that the app lists; then, for a caller that still has no slot, those that answer for themselves.
        """
        tried: set[str] = set()
        for ask in (self._ask_app, self._ask_each):
            free = [(-one.available_slots, random.random(), one.url) for one in ask() if one.available_slots > 0]
            for _, _, subscriber_url in sorted(free):
                if subscriber_url not in tried:
                    tried.add(subscriber_url)
                    yield subscriber_url

    def _ask_app(self) -> list[SubscriberEntry]:
        return ask_app(self._app_url, self._session)

    def _ask_each(self) -> list[SubscriberEntry]:
        return ask_each(self._settings, self._session)

    def _register(self, subscriber_url: str) -> bool:
        if subscriber_url != self._subscriber_url:
            self.subscriber_name = None  # The new subscriber may push before it has answered this call.
        answer = self._post(f"{subscriber_url}/register")
        if answer is None or not answer.ok:
            return False
        if subscriber_url != self._subscriber_url:
            self._subscriber_url = subscriber_url
            self.subscriber_name = self._name_of(subscriber_url)
            say(f"registered with {subscriber_url}")
        return True

    def _name_of(self, subscriber_url: str) -> str | None:
        """The name that this subscriber sends in the header `Subscriber`; None if it does not tell."""
        try:
            status = self._session.get(f"{subscriber_url}/status", timeout=CLIENT_TIMEOUT_SECONDS).json()
            return f"{status['cluster_topic']}/{status['subscriber']}"
        except (requests.RequestException, KeyError, TypeError):
            return None

    def _post(self, url: str) -> requests.Response | None:
        try:
            return self._session.post(url, json={"client_url": self._client_url}, timeout=CLIENT_TIMEOUT_SECONDS)
        except requests.RequestException:
            return None
