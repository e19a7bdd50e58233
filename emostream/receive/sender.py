"""A viewer who taps → POST /send-emoji at the app."""

from __future__ import annotations

import random
from datetime import datetime, timezone

import requests

from emostream.discovery import CLIENT_TIMEOUT_SECONDS, direct_session
from emostream.process import StopFlag
from emostream.receive.screen import say
from emostream.settings import SEED_EMOJIS


class TapSender:
    """Sends `events` random emojis, one every `interval_seconds`, and counts how many the app accepted."""

    def __init__(
        self, app_url: str, user_id: str, events: int, interval_seconds: float, stop: StopFlag, room: str = ""
    ) -> None:
        self._url = f"{app_url}/send-emoji"
        self._tap = {"user_id": user_id} | ({"room": room} if room else {})
        self._events = events
        self._interval_seconds = interval_seconds
        self._stop = stop
        self.sent = 0
        self.failed = 0

    def run(self) -> None:
        """Send all taps, then say how many were accepted."""
        session = direct_session()
        for _ in range(self._events):
            if self._stop.requested:
                break
            now = datetime.now(timezone.utc).isoformat()
            tap = {**self._tap, "emoji_type": random.choice(SEED_EMOJIS), "timestamp": now}
            try:
                session.post(self._url, json=tap, timeout=CLIENT_TIMEOUT_SECONDS).raise_for_status()
                self.sent += 1
            except requests.RequestException as error:
                self.failed += 1
                if self.failed == 1:
                    say(f"an emoji could not be sent: {error}")
            self._stop.wait(self._interval_seconds)
        say(f"sent {self.sent} emojis" + (f", {self.failed} failed" if self.failed else ""))
