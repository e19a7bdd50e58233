"""GET /status and POST /register → a slot with a subscriber, kept until the client leaves."""

from __future__ import annotations

import time

import requests

from emostream import roles
from emostream.discovery import CLIENT_TIMEOUT_SECONDS, SubscriberEntry
from emostream.process import StopFlag
from emostream.receive.screen import say
from emostream.receive.subscription import Subscription
from emostream.settings import Settings

CONFIRM_SECONDS = 2.0  # the client confirms its registration that often
# After so long without a confirmation the client looks for another subscriber. One that was killed is back sooner, and
# still knows its clients.
PATIENCE_SECONDS = 10.0


class Membership(Subscription):
    """The subscriber that the client is registered with, and the calls that keep it registered."""

    needs = "slot"

    def __init__(self, settings: Settings, app_url: str, stop: StopFlag) -> None:
        super().__init__(settings, app_url, stop)
        self._client_url = f"{roles.local_url(settings)}:{settings.port}/"
        self.room = settings.room
        self._subscriber_url: str | None = None
        self.subscriber_name: str | None = None  # in the header of its pushes; None while it is unknown

    def keep(self) -> None:
        """Confirm the registration until a stop. If the subscriber fails, find another one."""
        confirmed = time.monotonic()
        while not self._stop.wait(CONFIRM_SECONDS):
            if self._subscriber_url and self._ok("register", self._subscriber_url):
                confirmed = time.monotonic()
            elif time.monotonic() - confirmed > PATIENCE_SECONDS:
                say(f"{self._subscriber_url} does not answer any more; looking for another subscriber")
                if self.find(wait=True):
                    confirmed = time.monotonic()

    def leave(self) -> None:
        """Deregister. A subscriber that does not answer will evict the client."""
        if self._subscriber_url:
            left = self._ok("deregister", self._subscriber_url)
            say("deregistered" if left else "the subscriber did not answer; it will evict this client")

    def _rank(self, subscriber: SubscriberEntry) -> tuple[int, ...] | None:
        return (-subscriber.available_slots,) if subscriber.available_slots > 0 else None

    def _join(self, subscriber: SubscriberEntry) -> bool:
        if subscriber.url != self._subscriber_url:
            self.subscriber_name = None  # The new subscriber may push before it has answered this call.
        if not self._ok("register", subscriber.url):
            return False
        if subscriber.url != self._subscriber_url:
            self._subscriber_url = subscriber.url
            self.subscriber_name = self._name_of(subscriber.url)
            say(f"registered with {subscriber.url}")
        return True

    def _name_of(self, subscriber_url: str) -> str | None:
        """The name that a subscriber sends in the header `Subscriber`; None if it does not say."""
        try:
            status = self._session.get(f"{subscriber_url}/status", timeout=CLIENT_TIMEOUT_SECONDS).json()
            return f"{status['cluster_topic']}/{status['subscriber']}"
        except (requests.RequestException, KeyError, TypeError):
            return None

    def _ok(self, call: str, subscriber_url: str) -> bool:
        """Whether the subscriber did what the client asked for."""
        try:
            body = {"client_url": self._client_url}
            if self.room and call == "register":
                body["room"] = self.room
            answer = self._session.post(f"{subscriber_url}/{call}", json=body, timeout=CLIENT_TIMEOUT_SECONDS)
        except requests.RequestException:
            return False
        return answer.ok or (call == "deregister" and answer.status_code == 404)
