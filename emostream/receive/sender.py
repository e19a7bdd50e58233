"""A viewer who taps → POST /send-emoji at the app."""

from __future__ import annotations

import random
from datetime import datetime, timezone

import requests

from emostream.discovery import CLIENT_TIMEOUT_SECONDS
from emostream.process import StopFlag
from emostream.receive.terminal import say
from emostream.settings import SEED_EMOJIS


class Sender:
    """Sends random emojis, and counts how many the app accepted."""

    def __init__(self, app_url: str, user_id: str, stop: StopFlag) -> None:
        self._url = f"{app_url}/send-emoji"
        self._user_id = user_id
        self._stop = stop
        self.sent = 0
        self.failed = 0

    def run(self, events: int, interval_seconds: float) -> None:
        """Send `events` taps, one every `interval_seconds`, then say how many were accepted."""
        session = requests.Session()
        session.trust_env = False
        for _ in range(events):
            if self._stop.requested:
                break
            tap = {
                "user_id": self._user_id,
                "emoji_type": random.choice(SEED_EMOJIS),
                "timestamp": datetime.now(timezone.utc).isoformat(),
            }
            try:
                session.post(self._url, json=tap, timeout=CLIENT_TIMEOUT_SECONDS).raise_for_status()
                self.sent += 1
            except requests.RequestException as error:
                self.failed += 1
                if self.failed == 1:
                    say(f"an emoji could not be sent: {error}")
            self._stop.wait(interval_seconds)
        say(f"sent {self.sent} emojis" + (f", {self.failed} failed" if self.failed else ""))
