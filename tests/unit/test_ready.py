"""A successor is ready when it can take work, not when there was some."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from emostream import route
from emostream.deliver import subscriber as deliver
from emostream.process import Heartbeat, StopFlag, heartbeat_path
from emostream.settings import Settings
from testkit.settings import settings_with


class Waiting:
    """A router, or a subscriber with its topic reader, that waits for a first record, and then for its end."""

    def __init__(self, settings: Settings, stop: StopFlag) -> None:
        self._path = heartbeat_path(settings, "test")
        self._stop = stop
        self.was_ready = False
        self.healthy = True
        self.topic_reader = self.consumer = self
        self.trouble = None
        self.counters = SimpleNamespace(log_if_due=lambda: None)

    def run_once(self) -> None:
        self.was_ready = self._path.exists()
        self._stop.requested = True

    def save_positions(self) -> None:
        pass


def test_a_cluster_publisher_is_ready_before_the_first_record(tmp_path: Path) -> None:
    settings, stop = settings_with(DATA_DIR=tmp_path), StopFlag()
    router: Any = Waiting(settings, stop)
    route._follow(router, Heartbeat(settings, "test"), stop)
    assert router.was_ready


def test_a_subscriber_is_ready_before_the_first_record(tmp_path: Path) -> None:
    settings, stop = settings_with(DATA_DIR=tmp_path), StopFlag()
    subscriber: Any = Waiting(settings, stop)
    deliver._follow(subscriber, threading.current_thread(), Heartbeat(settings, "test"), stop)
    assert subscriber.was_ready
