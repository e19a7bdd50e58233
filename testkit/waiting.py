"""Waiting for a condition."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(what: str, condition: Callable[[], T], timeout_seconds: float = 60.0) -> T:
    """The first true value of `condition`; AssertionError naming `what` when it never comes."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s in vain: {what}"
        time.sleep(0.05)
    return value


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread is inside a `wait` of threading's."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "wait"
