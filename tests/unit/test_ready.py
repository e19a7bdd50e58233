"""A successor is ready when it can take work, not when there was some."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emostream import route
from emostream.deliver import subscriber as deliver
from emostream.process import Heartbeat, StopFlag, why_not_ready
from emostream.settings import Settings
from testkit.settings import settings_with


class Waiting:
    """A router, or a subscriber with its topic reader, that waits for a first record, and then for its end."""

    def __init__(self, settings: Settings, stop: StopFlag, problem: str | None) -> None:
        self._settings = settings
        self._stop = stop
        self._problem = problem
        self.said: str | None = "nothing"
        self.healthy = True
        self.topic_reader = self.clients = self
        self.counters = SimpleNamespace(log_if_due=lambda: None)

    def not_ready(self) -> str | None:
        return self._problem

    def run_once(self) -> None:
        self.said = why_not_ready(self._settings, "test", os.getpid())
        self._stop.requested = True

    def save_positions(self) -> None:
        pass


PROBLEMS = [None, "main-pub-topic cannot be read (away)"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_cluster_publisher_says_before_the_first_record_whether_it_is_ready(
    tmp_path: Path, problem: str | None
) -> None:
    settings, stop = settings_with(DATA_DIR=tmp_path), StopFlag()
    router: Any = Waiting(settings, stop, problem)
    route._follow(router, Heartbeat(settings, "test"), stop)
    assert router.said == problem


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_subscriber_says_before_the_first_record_whether_it_is_ready(tmp_path: Path, problem: str | None) -> None:
    settings, stop = settings_with(DATA_DIR=tmp_path), StopFlag()
    subscriber: Any = Waiting(settings, stop, problem)
    deliver._follow(subscriber, threading.current_thread(), Heartbeat(settings, "test"), stop)
    assert subscriber.said == problem
