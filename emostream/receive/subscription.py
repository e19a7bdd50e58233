"""The app's list of subscribers, or the answer of each → one subscriber that takes this client."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator

from emostream.discovery import SubscriberEntry, ask_app, ask_each, direct_session
from emostream.process import StopFlag
from emostream.receive.screen import say
from emostream.settings import Settings

RETRY_SECONDS = 1.0


class Subscription(ABC):
    """What a client has with one subscriber at a time: a slot, to which it pushes, or a stream, which it reads."""

    needs: str  # what a subscriber must have free

    def __init__(self, settings: Settings, app_url: str, stop: StopFlag) -> None:
        self._settings = settings
        self._app_url = app_url
        self._stop = stop
        self._session = direct_session()

    def find(self, wait: bool) -> bool:
        """Have a subscriber take this client; `wait` for one if there is none.

        Return False at a stop, and without `wait` when no subscriber takes it.
        """
        told = False
        while not self._stop.requested:
            if self._find_now():
                return True
            if not wait:
                return False
            if not told:
                say(f"no subscriber has a free {self.needs}; waiting for one")
                told = True
            self._stop.wait(RETRY_SECONDS * (0.5 + random.random()))
        return False

    def _find_now(self) -> bool:
        """Try the subscribers that the app lists; if none takes this client, those that answer for themselves."""
        tried: set[str] = set()
        for found in self._listings():
            ranked = [(rank, random.random(), one) for one in found if (rank := self._rank(one)) is not None]
            for _, _, subscriber in sorted(ranked, key=lambda item: item[:2]):
                if subscriber.url not in tried and self._join(subscriber):
                    return True
                tried.add(subscriber.url)
        return False

    def _listings(self) -> Iterator[list[SubscriberEntry]]:
        yield ask_app(self._app_url, self._session)
        yield ask_each(self._settings, self._session)

    @abstractmethod
    def _rank(self, subscriber: SubscriberEntry) -> tuple[int, ...] | None:
        """The lowest rank is tried first, equals in random order. None: this subscriber has nothing free."""

    @abstractmethod
    def _join(self, subscriber: SubscriberEntry) -> bool:
        """Ask a subscriber to take this client; return whether it did."""

    @abstractmethod
    def keep(self) -> None:
        """Receive until a stop; find another subscriber when this one is gone."""

    @abstractmethod
    def leave(self) -> None:
        """Give back the slot or the stream."""
