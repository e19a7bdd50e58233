"""The app's list of subscribers, or the answer of each → one subscriber that takes this client."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from emostream.discovery import SubscriberEntry, ask_app, ask_each, direct_session
from emostream.process import StopFlag
from emostream.receive.screen import say
from emostream.settings import Settings

FIND_AGAIN_SECONDS = 1.0


class Subscription(ABC):
    """What a client has at one subscriber at a time: a slot, for pushes, or a stream, which the client reads."""

    needs: str  # what a subscriber must have free

    def __init__(self, settings: Settings, app_url: str, stop: StopFlag) -> None:
        self._settings = settings
        self._app_url = app_url
        self._stop = stop
        self._session = direct_session()

    def find(self, wait: bool) -> bool:
        """Have a subscriber take this client, and `wait` for one if necessary. Return whether one did."""
        told = False
        while not self._stop.requested:
            if self._find_now():
                return True
            if not wait:
                return False
            if not told:
                say(f"no subscriber has a free {self.needs}; waiting for one")
                told = True
            self._stop.wait(FIND_AGAIN_SECONDS * (0.5 + random.random()))
        return False

    def _find_now(self) -> bool:
        """Try the subscribers that the app lists. If none takes this client, ask each subscriber."""
        return self._try(ask_app(self._app_url, self._session)) or self._try(ask_each(self._settings, self._session))

    def _try(self, found: list[SubscriberEntry]) -> bool:
        ranked = [(rank, random.random(), one) for one in found if (rank := self._rank(one)) is not None]
        return any(self._join(subscriber) for _, _, subscriber in sorted(ranked, key=lambda item: item[:2]))

    @abstractmethod
    def _rank(self, subscriber: SubscriberEntry) -> tuple[int, ...] | None:
        """The lowest rank is tried first, equal ones in random order. None: this subscriber has nothing free."""

    @abstractmethod
    def _join(self, subscriber: SubscriberEntry) -> bool:
        """Ask a subscriber to take this client; return whether it did."""

    @abstractmethod
    def keep(self) -> None:
        """Receive until a stop. If the subscriber fails, find another one."""

    @abstractmethod
    def leave(self) -> None:
        """Give back the slot or the stream."""
